//! What the page has trained, in a native program.

use std::path::{Path, PathBuf};
use std::{env, fs};

use evenkeel::data::{PaddedBatches, Sequence};
use evenkeel::hugging_face::{Adapter, Folder};
use evenkeel::nn::{Gpt, LanguageModel};
use evenkeel::text::{Examples, LossOn, Supervision, Tokenizer};
use evenkeel::train::{AdamW, Batch, Lengths, Trainer};
use evenkeel::{Error, Gpu, block_on};

/// Tokens of an example at most and examples of a batch, as `examples/browser/tests/finetune.mjs` sets
/// them.
const CONTEXT: usize = 64;
const BATCH: usize = 2;

/// The adapter, or `None` where there is none and none is required.
fn gpu() -> Option<Gpu> {
    match block_on(Gpu::new()) {
        Ok(gpu) => Some(gpu),
        Err(Error::NoAdapter { reason }) => {
            assert!(env::var_os("EVENKEEL_REQUIRE_GPU").is_none(), "no adapter: {reason}");
            println!("skipped: no adapter");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Examples of a file as the page reads them.
fn sequences(folder: &Path, name: &str) -> Vec<Sequence> {
    let tokenizer = Tokenizer::open(folder).unwrap();
    let contents = fs::read(folder.join(name)).unwrap();
    let examples = Examples::parse_as_first(name, &contents).unwrap();
    let supervision = Supervision {
        loss_on: LossOn::LastAnswer,
        context: Some(CONTEXT),
        ..Supervision::default()
    };
    let (samples, _) = supervision.encode_all(&tokenizer, &examples).unwrap();
    samples.iter().map(Sequence::from).collect()
}

/// The batches that the page measures its losses on.
fn validation(folder: &Path) -> (Vec<Batch>, Lengths) {
    let [training, validation] =
        ["train.jsonl", "valid.jsonl"].map(|name| sequences(folder, name));
    let longest = training.iter().chain(&validation).map(|one| one.tokens.len()).max();
    let lengths = Lengths::up_to(longest.unwrap()).unwrap();
    let batches = PaddedBatches::new(validation, lengths.clone(), BATCH).unwrap();
    (batches.batches(0, 0).take(batches.per_epoch()).collect(), lengths)
}

/// From the page that `examples/browser/tests/finetune.mjs` drives, through the folder of
/// `EVENKEEL_EXCHANGE`: its adapter has the validation loss here that it had there.
#[test]
fn an_adapter_of_the_page_has_its_loss() {
    let exchange = env::var_os("EVENKEEL_EXCHANGE").map(PathBuf::from);
    let Some(exchange) = exchange.filter(|folder| folder.join("adapter.loss").exists()) else {
        println!("skipped: the page has left no adapter");
        return;
    };
    let Some(gpu) = gpu() else { return };
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny");
    let expected = fs::read_to_string(exchange.join("adapter.loss")).unwrap();
    let expected: f32 = expected.parse().unwrap();
    let (batches, lengths) = validation(&tiny);
    let [without, with] = block_on(async {
        let folder = Folder::open(&tiny).unwrap();
        let adapter = Adapter::open(&exchange, folder.config()).unwrap();
        let gpt = Gpt::new(adapter.gpt()).unwrap();
        let model = LanguageModel { gpt, batch: BATCH, time: lengths.longest() };
        let builder = Trainer::builder(model).optimizer(AdamW::default()).lengths(lengths);
        let mut trainer = builder.build(&gpu).await.unwrap();
        trainer.load_weights(&mut folder.reader(|_| ())).await.unwrap();
        let without = trainer.evaluate_all(&batches).await.unwrap();
        trainer.load_weights(&mut adapter.reader()).await.unwrap();
        [without, trainer.evaluate_all(&batches).await.unwrap()]
    });
    println!("loss {without} without the adapter, {with} with it, {expected} in the page");
    assert!((without - with).abs() > 0.01, "the adapter changes nothing");
    // A driver for hardware may contract what two compilers write differently.
    let allowed = if gpu.is_software() { 0.0 } else { 1e-5 };
    assert!((with - expected).abs() <= allowed, "{with} natively, {expected} in the page");
}
