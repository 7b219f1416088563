//! What is wrong is named in one line, with a way out, and with the exit code of its kind.

use std::fs;

use crate::{Scene, chat, completion, programs, text};

#[test]
fn what_is_wrong_is_named() {
    let Some(scene) = Scene::new() else { return };
    let out = scene.place.path("out");
    let path = |name: &str| scene.place.path(name);
    let missing = path("missing");
    let yaml = |name: &str, content: &str| scene.place.write(name, content.as_bytes());
    let cases: [(&str, &[&str]); 13] = [
        ("hf_dataset: {path: billsum}", &["hf_dataset is not supported", "train.jsonl"]),
        ("report_to: wandb", &["report_to is not supported", "--tensorboard"]),
        ("trust_remote_code: true", &["trust_remote_code is not supported"]),
        ("prompt_feature: question", &["prompt_feature is not supported", "rename"]),
        ("lora_layers: 8", &["lora_layers is no setting", "--help", "case.yaml"]),
        ("batch_size: many", &["case.yaml: batch_size: invalid type", "many"]),
        ("iters: [1", &["case.yaml"]),
        ("lora_parameters: {rank: 8, scale: 2, alpha: 16}", &["lora_parameters is both"]),
        ("lora_parameters: {keys: [nose_proj]}", &["nose_proj", "names of modules"]),
        ("lora_parameters: {rank: 0}", &["lora rank is 0", "at least 1"]),
        (
            "lr_schedule: {name: cosine, arguments: [1e-5]}",
            &["lr_schedule is cosine", "cosine_decay"],
        ),
        ("optimizer_config: {adam: {momentum: 0.9}}", &["optimizer_config of adam", "momentum"]),
        ("optimizer_config: {adam: {bias_correction: false}}", &["bias_correction: false"]),
    ];
    for (content, parts) in cases {
        let config = yaml("case.yaml", content);
        scene.fail(3, &["--train", "--adapter-path", &out, "-c", &config], parts);
    }
    let cases: [(&[&str], &[&str]); 12] = [
        (&[], &["neither training nor testing", "--train"]),
        (&["--train", "--trust-remote-code"], &["trust_remote_code"]),
        (&["--train", "--report-to", "wandb"], &["report_to is not supported"]),
        (&["--train", "-c", &missing], &["missing", "configuration cannot be read"]),
        (&["--train", "--iters", "0"], &["iters is 0", "at least"]),
        (&["--train", "--iters", "2", "--grad-accumulation-steps", "3"], &["iters is 2"]),
        (&["--train", "--val-batches", "0"], &["val_batches is 0", "-1 for all"]),
        (&["--train", "--quantize", "q5_k"], &["quantize is q5_k", "q4_0"]),
        (&["--train", "--clip", "-1"], &["clip is -1"]),
        (&["--train", "--learning-rate", "nan"], &["is NaN"]),
        (
            &["--train", "--quantize", "q4_0", "--fine-tune-type", "full"],
            &["blocks is not supported", "--quantize"],
        ),
        (&["--train", "--spike-threshold", "0"], &["spike threshold is 0"]),
    ];
    for (arguments, parts) in cases {
        scene.fail(3, &[arguments, &["--adapter-path", &out]].concat(), parts);
    }
    for wrong in [&["--optimizer", "lion"][..], &["--fine-tune-type", "qlora"], &["--iters", "x"]] {
        let arguments = scene.arguments(wrong);
        let output = programs::run("evenkeel lora", &arguments);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn models_and_data_that_are_not_there_are_named() {
    let Some(scene) = Scene::new() else { return };
    let (out, empty) = (scene.place.path("out"), scene.place.path("empty"));
    fs::create_dir(&empty).expect("a folder");
    let train = ["--train", "--adapter-path", &out];
    let fail = |arguments: &[&str], parts: &[&str]| {
        let arguments = [&train[..], arguments].concat();
        let output = programs::run("evenkeel lora", &arguments);
        programs::check_failure(&output, 3, &arguments, parts);
    };
    fail(&["--data", &scene.data], &["a run without a model", "--model"]);
    fail(&["--model", &scene.model], &["a run without data", "--data"]);
    fail(
        &["--model", "someone/Model-1B", "--data", &scene.data],
        &["Model-1B", "there is no folder"],
    );
    let model = ["--model", &*scene.model, "--data"];
    fail(
        &[&model[..], &["someone/records"]].concat(),
        &["data sets are not fetched", "train.jsonl"],
    );
    fail(&[&model[..], &[&empty]].concat(), &["train.jsonl", "--train needs one"]);
    let data = |name: &str, content: &str| {
        let folder = scene.place.path(name);
        fs::create_dir(&folder).expect("a folder");
        scene.place.write(&format!("{name}/train.jsonl"), content.as_bytes());
        folder
    };
    let line = |record: serde_json::Value| format!("{record}\n");
    let [a_chat, a_completion, a_text] =
        [chat, completion, text].map(|record| line(record(["a keel", "an answer"])));
    let cases: [(&str, String, &[&str]); 5] = [
        ("broken", a_chat.clone() + "{\"messages\": \n", &["line 2", "it is no JSON"]),
        ("mixed", a_completion + &a_text, &["line 2", "no \"prompt\"", "the first line has"]),
        ("other", line(serde_json::json!({"question": "x"})), &["line 1", "it has neither prompt"]),
        ("nothing", "\n".to_owned(), &["there are no lines"]),
        ("roles", line(serde_json::json!({"messages": [{"content": "x"}]})), &["no role"]),
    ];
    for (name, content, parts) in cases {
        fail(&[&model[..], &[&data(name, &content)]].concat(), parts);
    }
    let texts = data("texts", &a_text);
    fail(&[&model[..], &[&texts, "--mask-prompt"]].concat(), &["no prompt to mask"]);
    let file = scene.place.path("data/train.jsonl");
    fail(&[&model[..], &[&file, "--test"]].concat(), &["--train and --test with one file"]);
    let none = scene.place.path("none");
    scene.fail(3, &["--test", "--adapter-path", &none], &["adapter_config.json", "there is none"]);
}

#[test]
fn what_does_not_fit_says_what_would() {
    let Some(scene) = Scene::new() else { return };
    let out = scene.place.path("out");
    let more = ["--train", "--adapter-path", &out];
    let dry = scene.arguments(&[&more[..], &["--dry-run"]].concat());
    let plan = programs::succeed("evenkeel lora", &dry);
    let total = plan.lines().find_map(|line| line.strip_prefix("#   all ")).expect("a total");
    let mib: f64 = total.trim().parse().expect("MiB");
    let limit = (0.98 * mib / 1024.0).to_string();
    let parts = ["this run, which may take", "it fits with", "GiB)"];
    let full = ["--precision", "f32", "--memory-limit", &limit];
    scene.fail(4, &[&more[..], &full].concat(), &parts);
    let parts = ["take a smaller model"];
    scene.fail(4, &[&more[..], &["--memory-limit", "0.000001"]].concat(), &parts);
}
