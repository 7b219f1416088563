//! The session of fine-tuning in a tab, natively: it learns, survives what it should, goes on bit by
//! bit, and says what is wrong with what it is given.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use evenkeel::graph::{Graph, Phase};
use evenkeel::hugging_face::{Adapter, Folder, ReadAt};
use evenkeel::nn::{Generator, Gpt};
use evenkeel::plan::Parameters;
use evenkeel::train::Telemetry;
use evenkeel::{Error, Gpu, block_on};
use evenkeel_browser_finetune::{ChatSettings, Disturbance, ModelFiles, Session, Settings};

#[path = "place/mod.rs"]
mod programs;
#[path = "../../../../tests/support/tiny_model.rs"]
mod tiny_model;

use programs::Place;

const QUESTION: &str = r#"[{"role": "user", "content": "What keeps the boat even?"}]"#;

/// What the tiny model answers on its own.
const WRONG: &str = "Überall, auch am Äquator ⛵.";

type Contents = BTreeMap<String, Vec<u8>>;

fn new_gpu() -> Option<Gpu> {
    match block_on(Gpu::new()) {
        Ok(gpu) => Some(gpu),
        Err(Error::NoAdapter { reason }) => {
            assert!(std::env::var_os("EVENKEEL_REQUIRE_GPU").is_none(), "no adapter: {reason}");
            println!("skipped: no adapter");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The adapter, or `None` where there is none and none is required.
fn gpu() -> Option<Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(new_gpu).clone()
}

/// Files of the folder with the tiny model.
fn tiny(names: &[&str]) -> Contents {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny");
    let read = |&name: &&str| (name.to_owned(), fs::read(folder.join(name)).expect(name));
    names.iter().map(read).collect()
}

fn model() -> Contents {
    tiny(&["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
}

fn data() -> Contents {
    tiny(&["train.jsonl", "valid.jsonl"])
}

fn sources(files: Contents) -> ModelFiles {
    let source = |(name, contents)| (name, Box::new(contents) as Box<dyn ReadAt>);
    files.into_iter().map(source).collect()
}

fn settings() -> Settings {
    Settings { learning_rate: 1e-2, steps: 40, batch: 4, context: 128, ..Settings::default() }
}

async fn open(gpu: &Gpu, settings: Settings) -> Session {
    Session::open(gpu.clone(), sources(model()), data(), settings).await.expect("a session")
}

async fn run(session: &mut Session, steps: usize) -> Vec<Telemetry> {
    for _ in 0..steps {
        session.step().await.expect("a step");
    }
    session.telemetry().await.expect("telemetry")
}

fn losses(records: &[Telemetry]) -> Vec<u32> {
    records.iter().map(|record| record.loss.to_bits()).collect()
}

fn greedy(adapted: bool) -> ChatSettings {
    let text = format!(r#"{{"temperature": 0, "maxTokens": 24, "adapted": {adapted}}}"#);
    ChatSettings::from_json(&text).expect("settings")
}

/// An answer, so many tokens at a time.
async fn answer(session: &mut Session, messages: &str, adapted: bool, count: usize) -> String {
    session.begin_chat(messages, &greedy(adapted)).await.expect("a beginning");
    let mut text = String::new();
    loop {
        let written = session.next(count).await.expect("tokens");
        text.push_str(&written.text);
        if written.is_done {
            return text;
        }
    }
}

#[test]
fn a_model_is_tuned_and_answers() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let settings = Settings { steps: 200, ..settings() };
        let mut session = open(&gpu, settings).await;
        let report = session.report();
        assert_eq!((&*report.family, report.examples, report.validation_examples), ("llama", 8, 3));
        assert!(report.has_template && report.steps == 200, "{report:?}");
        assert!(report.trained > 0 && report.parameters > 4 * report.trained, "{report:?}");
        assert!(report.bytes > 4 * report.parameters as u64, "{report:?}");
        assert!(report.tokens_per_step > 80.0, "{report:?}");
        assert!(report.notes.iter().any(|note| note.starts_with("train.jsonl: 8 samples")));

        let before = session.validate().await.expect("a loss");
        // An adapter that has learned nothing changes nothing.
        let untuned = answer(&mut session, QUESTION, false, 100).await;
        assert_eq!(untuned, WRONG);
        assert_eq!(answer(&mut session, QUESTION, true, 100).await, untuned);
        let records = run(&mut session, 200).await;
        assert!(records.iter().all(|record| record.loss.is_finite()));
        session.set_seconds(2.0);
        let after = session.validate().await.expect("a loss");
        println!("validation loss {before:.3}, then {after:.3}");
        assert!(after < 0.7 * before, "validation loss {before}, then {after}");
        let (first, last) = (records[0].loss, records[199].loss);
        assert!(last < 0.3 * first, "loss {first}, then {last}");

        let lines = session.json_lines().expect("lines");
        let lines = String::from_utf8(lines).expect("UTF-8");
        assert_eq!(lines.lines().count(), 200);
        let last = lines.lines().last().expect("a line");
        assert!(last.contains("validation_loss") && last.contains("tokens_per_second"), "{last}");

        let tuned = answer(&mut session, QUESTION, true, 100).await;
        assert_eq!(tuned, "The keel.");
        assert_eq!(answer(&mut session, QUESTION, true, 1).await, tuned);
        // Without the adapter the model is what it was.
        assert_eq!(answer(&mut session, QUESTION, false, 7).await, untuned);
        let wind = r#"[{"role": "user", "content": "Where does the wind blow?"}]"#;
        let pieces = answer(&mut session, wind, true, 1).await;
        assert_eq!(pieces, WRONG);
    });
}

#[test]
fn answers_end() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let mut session = open(&gpu, settings()).await;
        assert!(session.next(1).await.expect("nothing").is_done, "there is no answer");
        let few = ChatSettings { max_tokens: 3, ..greedy(true) };
        session.begin_chat(QUESTION, &few).await.expect("a beginning");
        assert!(!session.next(2).await.expect("tokens").is_done);
        assert!(session.next(2).await.expect("tokens").is_done);
        // Within the sail, which takes several tokens.
        let cut = ChatSettings { max_tokens: 20, ..greedy(false) };
        session.begin_chat(QUESTION, &cut).await.expect("a beginning");
        assert_eq!(session.next(100).await.expect("tokens").text, "Überall, auch am Äquator ");

        // A step changes the weights, and with them what the answer was made of.
        session.begin_chat(QUESTION, &greedy(true)).await.expect("a beginning");
        assert!(!session.next(1).await.expect("tokens").is_done);
        run(&mut session, 1).await;
        assert!(session.next(1).await.expect("nothing").is_done);

        let long = "What keeps the boat even? ".repeat(20);
        let long = format!(r#"[{{"role": "user", "content": "{long}"}}]"#);
        let error = session.begin_chat(&long, &greedy(true)).await.unwrap_err().to_string();
        assert!(error.contains("of at most 128; begin a new one"), "{error}");
        let error = session.begin_chat("[]", &greedy(true)).await.unwrap_err().to_string();
        assert!(error.contains("a conversation"), "{error}");
    });
}

#[test]
fn a_saved_run_goes_on_with_the_same_bits() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        // Dropout, so that its masks must be the same too.
        let settings = Settings { dropout: 0.1, batch: 3, steps: 10, ..settings() };
        let mut session = open(&gpu, settings.clone()).await;
        run(&mut session, 5).await;
        let saved = session.save().await.expect("a state");
        let expected = losses(&run(&mut session, 5).await);
        let adapter = session.adapter().await.expect("an adapter");

        let mut other = open(&gpu, settings.clone()).await;
        assert_eq!(other.report().key, session.report().key);
        run(&mut other, 1).await;
        let mut damaged = saved.clone();
        damaged.truncate(saved.len() - 4);
        for bytes in [&damaged[..], &saved[..100], b"no state"] {
            let error = other.restore(bytes).await.unwrap_err();
            assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
        }
        assert_eq!(other.steps(), 1);
        assert_eq!(other.restore(&saved).await.expect("restored"), 5);
        assert_eq!(other.snapshot_steps(), 5);
        assert_eq!(losses(&run(&mut other, 5).await), expected);
        assert_eq!(other.adapter().await.expect("an adapter"), adapter);

        let mut fewer = data();
        fewer.insert("train.jsonl".to_owned(), fewer["valid.jsonl"].clone());
        let files = sources(model());
        let mut other = Session::open(gpu.clone(), files, fewer, settings.clone()).await.unwrap();
        let error = other.restore(&saved).await.unwrap_err().to_string();
        assert!(error.contains("other data") && error.contains("begin a new run"), "{error}");
        let mut other = open(&gpu, Settings { rank: 4, ..settings }).await;
        let error = other.restore(&saved).await.unwrap_err().to_string();
        assert!(error.contains("other settings"), "{error}");
        assert_eq!(other.steps(), 0);
    });
}

#[test]
fn what_is_not_finite_changes_nothing() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let mut session = open(&gpu, settings()).await;
        run(&mut session, 3).await;
        let before = session.adapter().await.expect("an adapter");
        for disturbance in [Disturbance::Nan, Disturbance::Infinity] {
            let step = session.disturb(disturbance).expect("one of the loss");
            assert_eq!(step, session.steps());
            let records = run(&mut session, 1).await;
            assert!(!records[0].applied, "{disturbance:?}: {:?}", records[0]);
            assert_eq!(session.adapter().await.expect("an adapter"), before, "{disturbance:?}");
        }
        let records = run(&mut session, 2).await;
        assert!(records.iter().all(|record| record.applied && record.loss.is_finite()));
        assert_ne!(session.adapter().await.expect("an adapter"), before);
        let error = session.disturb(Disturbance::LearningRate).unwrap_err().to_string();
        assert!(error.contains("nan, inf or spike"), "{error}");
    });
}

/// The logits that follow a prompt, of the model in these files with this adapter.
async fn logits(gpu: &Gpu, model: Contents, adapter: Contents, prompt: &[u32]) -> Vec<f32> {
    let folder = Folder::from_files(model).expect("a model");
    let adapter = Adapter::from_files(adapter, folder.config()).expect("an adapter");
    let gpt = Gpt::new(adapter.gpt()).expect("a model");
    let mut graph = Graph::new(Phase::Evaluate);
    let tokens = graph.tokens("tokens", [1, 1], gpt.config().vocabulary);
    gpt.logits(&mut graph, tokens);
    let parameters = Parameters::new(gpu, &graph, 0).await.expect("parameters");
    parameters.load(&mut folder.reader(|_| {})).await.expect("loaded");
    parameters.load(&mut adapter.reader()).await.expect("loaded");
    let generator = Generator::new(gpu, &parameters, &gpt).await.expect("a generator");
    generator.logits(prompt).await.expect("logits")
}

#[test]
fn the_adapter_is_the_one_that_was_trained() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let mut session = open(&gpu, settings()).await;
        run(&mut session, 6).await;
        let files = session.adapter().await.expect("an adapter");
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
        let config = String::from_utf8_lossy(&files["adapter_config.json"]);
        for word in ["\"LORA\"", "q_proj", "down_proj", "\"r\": 8", "\"lora_alpha\": 16"] {
            assert!(config.contains(word), "{word}: {config}");
        }
        let prompt = [1, 70, 80, 90, 100];
        let made = Generator::new(&gpu, session.parameters(), session.gpt()).await;
        let generator = made.expect("a generator");
        let expected = generator.logits(&prompt).await.expect("logits");
        let found = logits(&gpu, model(), files, &prompt).await;
        let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(found), bits(expected));
    });
}

#[test]
fn a_model_of_llama_cpp_is_tuned_in_blocks() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let place = Place::new();
        place.write("model/model.safetensors", &model()["model.safetensors"]);
        let file = fs::read(tiny_model::write_gguf(&place)).expect("read");
        let gguf = || sources(Contents::from([("tiny.gguf".to_owned(), file.clone())]));
        let tuned = async |base: Option<&str>| {
            let base = base.map_or("null".to_owned(), |base| format!("\"{base}\""));
            let text =
                format!(r#"{{"base": {base}, "batch": 4, "learningRate": 1e-2, "steps": 9}}"#);
            let settings = Settings::from_json(&text).expect("settings");
            let opened = Session::open(gpu.clone(), gguf(), data(), settings).await;
            let mut session = opened.expect("a session");
            let records = run(&mut session, 8).await;
            assert!(records[7].loss < records[0].loss, "{base}: {records:?}");
            session
        };
        let mut whole = tuned(None).await;
        let quantized = tuned(Some("q4_0")).await;
        let [whole_report, report] = [whole.report(), quantized.report()];
        assert!(report.bytes < whole_report.bytes, "{report:?}, {whole_report:?}");
        assert!(report.notes.iter().any(|note| note.contains("q4_0")), "{report:?}");
        assert_ne!(report.key, whole_report.key);
        assert!(whole_report.has_template);
        answer(&mut whole, QUESTION, true, 5).await;
    });
}

#[test]
fn one_file_of_lines_is_split_and_texts_do_without_a_template() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let mut model = model();
        model.remove("tokenizer_config.json");
        let lines = "{\"text\": \"the keel keeps the boat even\", \"id\": 3}\n".repeat(12);
        let settings =
            Settings { rank: 16, layers: 5, steps: 150, learning_rate: 2e-2, ..settings() };
        let data = Contents::from([("boats.jsonl".to_owned(), lines.into_bytes())]);
        let mut session =
            Session::open(gpu.clone(), sources(model), data, settings).await.expect("a session");
        let report = session.report();
        assert_eq!((report.examples, report.validation_examples), (11, 1));
        let expected = [
            "1 of the 12 examples",
            "texts without prompts",
            "no chat template",
            "in the fields id is passed over",
            "The model has 1 blocks",
        ];
        for words in expected {
            assert!(report.notes.iter().any(|note| note.contains(words)), "{words}: {report:?}");
        }
        let before = session.validate().await.expect("a loss");
        run(&mut session, 150).await;
        assert!(session.validate().await.expect("a loss") < 0.5 * before);
        let begun = r#"[{"role": "user", "content": "the keel keeps"}]"#;
        let text = answer(&mut session, begun, true, 2).await;
        assert!(text.starts_with(" the boat even"), "{text:?}");
    });
}

#[test]
fn a_lost_device_is_replaced() {
    // A device of its own, since it is destroyed.
    let Some(gpu) = new_gpu() else { return };
    block_on(async {
        let mut session = open(&gpu, settings()).await;
        assert_eq!(session.snapshot_steps(), 0);
        run(&mut session, 20).await;
        assert_eq!(session.snapshot_steps(), 20);
        let expected = losses(&run(&mut session, 4).await);
        session.begin_chat(QUESTION, &greedy(true)).await.expect("a beginning");
        session.lose_device();
        let error = loop {
            if let Err(error) = session.telemetry().await.map(drop).and(session.step().await) {
                break error;
            }
        };
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        assert_eq!(session.recover(Gpu::new().await.unwrap()).await.expect("recovered"), 20);
        assert_eq!(losses(&run(&mut session, 4).await), expected);
        answer(&mut session, QUESTION, true, 10).await;
    });
}

/// A file of which somebody wants to know how much is read at once.
#[derive(Debug)]
struct Watched {
    contents: Vec<u8>,
    largest: Arc<Mutex<u64>>,
}

impl ReadAt for Watched {
    fn size(&self) -> io::Result<u64> {
        self.contents.size()
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut largest = self.largest.lock().expect("no panic");
        *largest = (*largest).max(range.end - range.start);
        self.contents.read_at(range)
    }
}

/// A file that ends early, or cannot be read at all.
#[derive(Debug)]
struct Broken {
    contents: Vec<u8>,
    is_short: bool,
}

impl ReadAt for Broken {
    fn size(&self) -> io::Result<u64> {
        self.contents.size()
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = self.contents.read_at(range.clone())?;
        // What stands in front of the numbers is whole.
        if range.end - range.start < 20_000 {
            return Ok(bytes);
        }
        bytes.pop();
        if self.is_short { Ok(bytes) } else { Err(io::Error::other("the file is gone")) }
    }
}

#[test]
fn a_model_is_read_piece_by_piece() {
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let contents = model()["model.safetensors"].clone();
        let (size, largest) = (contents.len() as u64, Arc::new(Mutex::new(0)));
        let mut files = sources(model());
        let watched = Watched { contents: contents.clone(), largest: largest.clone() };
        files.insert("model.safetensors".to_owned(), Box::new(watched));
        Session::open(gpu.clone(), files, data(), settings()).await.expect("a session");
        let largest = *largest.lock().expect("no panic");
        assert!(largest > 0 && largest < size, "{largest} of {size} bytes at once");

        for (is_short, words) in [(true, "end of file"), (false, "the file is gone")] {
            let mut files = sources(model());
            let broken = Broken { contents: contents.clone(), is_short };
            files.insert("model.safetensors".to_owned(), Box::new(broken));
            let error = Session::open(gpu.clone(), files, data(), settings()).await.unwrap_err();
            let error = error.to_string();
            assert!(error.contains("model.safetensors") && error.contains(words), "{error}");
        }
    });
}

#[test]
fn what_is_wrong_is_named() {
    let Some(gpu) = gpu() else { return };
    let error = |model: Contents, data: Contents| {
        let opened = block_on(Session::open(gpu.clone(), sources(model), data, settings()));
        opened.expect_err("an error").to_string()
    };
    let without = |name: &str| {
        let mut files = model();
        files.remove(name);
        files
    };
    let with = |name: &str, contents: &[u8]| {
        let mut files = model();
        files.insert(name.to_owned(), contents.to_vec());
        files
    };
    let cut = &model()["model.safetensors"][..50_000];
    let whole = "it has 50000 bytes";
    for (files, words) in [
        (without("config.json"), ["config.json", "none in the folder"]),
        (without("tokenizer.json"), ["tokenizer.json", "none in the folder"]),
        (without("model.safetensors"), ["model.safetensors", "none in the folder"]),
        (with("model.safetensors", cut), ["model.safetensors", whole]),
        (with("config.json", b"{"), ["config.json", "EOF"]),
        (with("tokenizer.json", b"{}"), ["tokenizer.json", "no tokenizer that is known"]),
        (with("a.gguf", b"GGUF"), ["a.gguf", "cut off"]),
        (Contents::new(), ["config.json", "none in the folder"]),
    ] {
        let error = error(files, data());
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    }
    let mut several = with("a.gguf", b"GGUF");
    several.insert("B.GGUF".to_owned(), b"GGUF".to_vec());
    assert!(error(several, data()).contains("choose one"));

    let lines = |text: &str| Contents::from([("lines.jsonl".to_owned(), text.as_bytes().to_vec())]);
    let chat = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    for (data, words) in [
        (Contents::new(), ["no train.jsonl", "a JSON object a line"]),
        (lines(""), ["lines.jsonl", "no lines"]),
        (lines("{\"text\": \"a\"}\n{\"text\": }"), ["lines.jsonl, line 2", "expected value"]),
        (lines("{\"text\": \"a boat\"}"), ["lines.jsonl", "at least two"]),
        (lines(chat), ["lines.jsonl, line 1", "assistant"]),
    ] {
        let error = error(model(), data);
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    }
    let error = error(without("tokenizer_config.json"), data());
    assert!(error.contains("train.jsonl") && error.contains("Instruct"), "{error}");
}

/// With the page that `tests/finetune.mjs` drives, through the folder of `EVENKEEL_EXCHANGE`: the
/// adapter that it wrote gives the validation loss here that it has there.
#[test]
fn an_adapter_comes_from_the_page() {
    let Some(folder) = std::env::var_os("EVENKEEL_EXCHANGE").map(PathBuf::from) else {
        println!("skipped: no folder to meet the page in");
        return;
    };
    let read = |name: &str| fs::read(folder.join(name)).ok().map(|file| (name.to_owned(), file));
    let names = ["adapter_config.json", "adapter_model.safetensors"];
    let files: Contents = names.into_iter().filter_map(read).collect();
    let (Ok(expected), 2) = (fs::read_to_string(folder.join("finetune.loss")), files.len()) else {
        println!("the page has left nothing yet");
        return;
    };
    let Some(gpu) = gpu() else { return };
    block_on(async {
        let expected: f64 = expected.trim().parse().expect("a number");
        let folder = Folder::from_files(model()).expect("a model");
        let adapter = Adapter::from_files(files, folder.config()).expect("an adapter");
        let settings = Settings { rank: adapter.lora().rank, ..settings() };
        let mut session = open(&gpu, settings).await;
        session.load_adapter(&adapter).await.expect("loaded");
        let found = session.validate().await.expect("a loss");
        // A driver for hardware may contract what two compilers write differently.
        let allowed = if gpu.is_software() { 0.0 } else { 1e-5 };
        assert!((found - expected).abs() <= allowed, "{found} natively, {expected} in the page");
    });
}
