//! Adapters in PEFT's layout and in mlx-lm's.

use std::fs;
use std::process::Command;

use evenkeel::graph::{Graph, Phase};
use evenkeel::hugging_face::{Adapter, Folder};
use evenkeel::nn::Gpt;
use evenkeel::plan::Parameters;
use evenkeel::train::{Batch, Predictor};
use pollster::block_on;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::tiny_model::config;
use crate::{Scene, programs, support};

fn numbers(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    (view.shape().to_vec(), bytemuck::pod_collect_to_vec(view.data()))
}

#[test]
fn both_layouts_hold_the_same_numbers() {
    let Some(scene) = Scene::new() else { return };
    for kind in ["lora", "dora"] {
        let more = ["--adapter-format", "both", "--iters", "4", "--learning-rate", "0.01"];
        scene.tune(kind, &[&more[..], &["--fine-tune-type", kind]].concat());
        let peft = scene.bytes(&format!("{kind}/adapter_model.safetensors"));
        let mlx = scene.bytes(&format!("{kind}/mlx/adapters.safetensors"));
        let [peft, mlx] =
            [&peft, &mlx].map(|file| SafeTensors::deserialize(file).expect("tensors"));
        assert_eq!(peft.len(), mlx.len());
        let module = "model.layers.0.mlp.down_proj";
        for (theirs, ours) in [("lora_A.weight", "lora_a"), ("lora_B.weight", "lora_b")] {
            let (shape, values) = numbers(&peft, &format!("base_model.model.{module}.{theirs}"));
            let (turned, others) = numbers(&mlx, &format!("{module}.{ours}"));
            let [rows, columns] = shape[..] else { panic!("{shape:?}") };
            assert_eq!(turned, [columns, rows]);
            for row in 0..rows {
                for column in 0..columns {
                    assert_eq!(values[row * columns + column], others[column * rows + row]);
                }
            }
        }
        let settings = scene.place.read(&format!("{kind}/mlx/adapter_config.json"));
        let settings: Value = serde_json::from_str(&settings).expect("JSON");
        assert_eq!(
            (&settings["fine_tune_type"], &settings["num_layers"]),
            (&json!(kind), &json!(1))
        );
        assert_eq!(settings["lora_parameters"]["scale"], json!(20.0));
        assert_eq!(settings["lora_parameters"]["keys"].as_array().map(Vec::len), Some(7));

        // Read again, both are one adapter.
        let open = |folder: &str| {
            let path = scene.place.path(&format!("{kind}/{folder}"));
            Adapter::open_any(path, &config()).expect("an adapter")
        };
        let (one, other) = (open(""), open("mlx"));
        assert_eq!(one.lora().modules(&config().gpt), other.lora().modules(&config().gpt));
        assert_eq!(
            (one.lora().scale(), one.lora().dora),
            (other.lora().scale(), other.lora().dora)
        );
        let [one, other] = [&one, &other].map(|adapter| logits(&scene, adapter));
        assert_eq!(one, other);
        let generate = |folder: &str| {
            let path = scene.place.path(&format!("{kind}/{folder}"));
            let asks = ["--model", &scene.model, "--prompt", "a keel", "--temp", "0"];
            let more = ["--max-tokens", "8", "--adapter-path", &path];
            programs::succeed("evenkeel generate", &[&asks[..], &more].concat())
        };
        assert_eq!(generate(""), generate("mlx"));
    }
}

/// Logits of the model with an adapter, as bits.
fn logits(scene: &Scene, adapter: &Adapter) -> Vec<u32> {
    let gpu = support::gpu().expect("a device");
    let folder = Folder::open(&scene.model).expect("a model");
    let gpt = Gpt::new(adapter.gpt()).expect("a model");
    let build = |graph: &mut Graph| {
        let tokens = graph.tokens("tokens", [1, IDS.len()], config().gpt.vocabulary);
        vec![gpt.logits(graph, tokens)]
    };
    let mut graph = Graph::new(Phase::Evaluate);
    build(&mut graph);
    let parameters = block_on(Parameters::new(&gpu, &graph, 0)).expect("parameters");
    block_on(parameters.load(&mut folder.reader(|_| {}))).expect("weights");
    block_on(parameters.load(&mut adapter.reader())).expect("an adapter");
    let predictor = block_on(Predictor::new(&gpu, &parameters, build)).expect("a predictor");
    let outputs = block_on(predictor.run(&Batch::new().with("tokens", &IDS[..]))).expect("logits");
    outputs[0].iter().map(|logit| logit.to_bits()).collect()
}

const IDS: [u32; 8] = [1, 40, 300, 77, 5, 512, 9, 2];

#[test]
fn a_run_begins_with_an_adapter_of_either_layout() {
    let Some(scene) = Scene::new() else { return };
    let short = ["--iters", "10", "--learning-rate", "0.01", "--save-every", "5"];
    scene.tune("peft", &short);
    scene.tune("mlx", &[&short[..], &["--adapter-format", "mlx"]].concat());
    assert!(
        scene.has("mlx/0000005_adapters.safetensors")
            && !scene.has("mlx/adapter_model.safetensors")
    );
    let validation = |out: &str| scene.records(out)[9]["validation_loss"].as_f64().expect("a loss");
    assert_eq!(validation("peft"), validation("mlx"));
    for file in
        ["peft/adapter_model.safetensors", "peft", "mlx/0000010_adapters.safetensors", "mlx"]
    {
        let path = scene.place.path(file);
        let begun = ["--resume-adapter-file", &path, "--iters", "1", "--restart"];
        let text = scene.tune("next", &begun);
        let first = format!("Iter 0: Val loss {:.3}", validation("peft"));
        assert!(text.contains(&first), "{file}: {first:?} is missing in {text}");
    }
    let missing = scene.place.path("none");
    let out = scene.place.path("next");
    let more = ["--train", "--adapter-path", &out, "--resume-adapter-file", &missing];
    scene.fail(3, &more, &["none", "the adapter to begin with cannot be read"]);
    let other = scene.place.write("rank.yaml", b"lora_parameters: {rank: 4}\n");
    let file = scene.place.path("mlx");
    let more = ["--train", "--adapter-path", &out, "--resume-adapter-file", &file, "-c", &other];
    scene.fail(3, &more, &["has the shape", "and the model wants"]);
}

/// PEFT's own logits with an adapter of a run are those of this library. `EVENKEEL_PEFT_PYTHON`
/// names a Python that has torch, transformers and peft; without it nothing is compared, since no
/// other test needs them.
#[test]
fn peft_computes_the_same_logits() {
    let Some(python) = std::env::var_os("EVENKEEL_PEFT_PYTHON") else { return };
    let Some(scene) = Scene::new() else { return };
    for kind in ["lora", "dora"] {
        let more = ["--iters", "20", "--learning-rate", "0.01", "--fine-tune-type", kind];
        scene.tune(kind, &more);
        let folder = scene.place.path(kind);
        let adapter = Adapter::open(&folder, &config()).expect("an adapter");
        let ours: Vec<u8> =
            logits(&scene, &adapter).iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let ours = scene.place.write("logits.bin", &ours);
        let ids: Vec<_> = IDS.map(|id| id.to_string()).into();
        let ids = scene.place.write("ids.txt", ids.join(" ").as_bytes());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/check_adapter.py");
        let mut check = Command::new(&python);
        let output = check.args([script, &scene.model, &folder, &ids, &ours]).output();
        let output = output.expect("Python starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{kind}: {said}{errors}");
        println!("{kind}: {said}");
    }
}

#[test]
fn what_mlx_has_no_words_for_is_refused() {
    let Some(scene) = Scene::new() else { return };
    let out = scene.place.path("out");
    let own = ["--train", "--adapter-path", &out, "--adapter-format", "mlx"];
    scene.fail(3, &[&own[..], &["--fine-tune-type", "full"]].concat(), &["as a model"]);
    let text = programs::succeed("evenkeel lora", &["--help"]);
    assert!(text.contains("--adapter-format"), "{text}");
    assert!(fs::read_dir(&out).is_err(), "nothing was made");
}
