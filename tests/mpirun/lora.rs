//! `evenkeel lora` on several ranks.

use std::fs;

use evenkeel::train::ranks::DiLoCoCheckpoint;
use safetensors::SafeTensors;
use serde_json::json;

use crate::programs::Place;
use crate::tiny_model::{QUESTIONS, write_model};
use crate::{check_tensors, names_in, records, refuse_on, succeed_on, support};

/// Questions and answers of all lengths, of which the answers count.
fn write_records(place: &Place) {
    fs::create_dir(place.path("data")).expect("a folder");
    let line = |[prompt, completion]: [&str; 2]| {
        format!("{}\n", json!({ "prompt": prompt, "completion": completion }))
    };
    for (name, count) in [("train", 26), ("valid", 5), ("test", 4)] {
        let lines: String = QUESTIONS.into_iter().cycle().take(count).map(line).collect();
        place.write(&format!("data/{name}.jsonl"), lines.as_bytes());
    }
}

/// Arguments of a run of the folder `out`, on data of the place.
fn arguments(place: &Place, model: &str, out: &str, more: &[&str]) -> Vec<String> {
    let (data, out) = (place.path("data"), place.path(out));
    let own = ["lora", "--train", "--model", model, "--data", &data, "--adapter-path", &out];
    let steps = ["--mask-prompt", "--batch-size", "1", "--learning-rate", "1e-3"];
    let every = ["--steps-per-report", "4", "--steps-per-eval", "8", "--save-every", "8"];
    let all = own.iter().chain(&steps).chain(&every).chain(more);
    all.map(|argument| (*argument).to_owned()).collect()
}

#[test]
fn adapters_of_ranks_that_meet_rarely_are_theirs_together() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    write_records(&place);
    let rounds =
        ["--grad-accumulation-steps", "2", "--diloco-steps", "2", "--diloco-format", "f32"];
    let run = |out: &str, more: &[&str]| {
        succeed_on(2, &arguments(&place, &model, out, &[&rounds[..], more].concat()))
    };
    let text = run("whole", &["--iters", "24"]);
    assert!(text.contains("DiLoCo: a round every 2 steps: learning rate 0.7, "), "{text}");
    run("out", &["--iters", "16"]);
    run("out", &["--iters", "24", "--resume"]);
    assert_eq!(records(&place, "out"), records(&place, "whole"));
    let events = records(&place, "out").into_iter().map(|record| record["events"].to_string());
    assert_eq!(events.filter(|events| events.contains("\"round ")).count(), 6);
    let own = ["diloco.rank-0.safetensors", "diloco.rank-1.safetensors"];
    for name in own.into_iter().chain(["adapter_model.safetensors"]) {
        check_tensors(&place, ["out", "whole"], name);
    }
    let [first, second] = own.map(|name| fs::read(place.path(&format!("out/{name}"))));
    let [first, second] = [first, second].map(|bytes| {
        let saved = DiLoCoCheckpoint::from_bytes(&bytes.expect("a save")).expect("of DiLoCo");
        saved.trainer().to_bytes()
    });
    let [first, second] =
        [&first, &second].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
    let adapted: Vec<_> =
        first.names().into_iter().filter(|name| name.starts_with("blocks.")).collect();
    assert!(!adapted.is_empty());
    for name in adapted {
        let [first, second] = [&first, &second].map(|file| file.tensor(name).expect("it"));
        assert_eq!(first, second, "{name}");
    }
    let rollback = ["--spike-guard", "rollback"];
    let own = arguments(&place, &model, "none", &[&rounds[..], &rollback].concat());
    refuse_on(2, &own, 3, &["--spike-guard rollback with --diloco-steps"]);
}

#[test]
fn adapters_are_those_of_one_rank() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let model = write_model(&gpu, &place);
    write_records(&place);
    let arguments = |out: &str, more: &[&str]| arguments(&place, &model, out, more);
    let whole = ["--grad-accumulation-steps", "4", "--iters", "24", "--test"];
    let alone = succeed_on(1, &arguments("one", &whole));
    // Half of it on four ranks, which keep moments in parts, and the rest on one.
    let half = ["--grad-accumulation-steps", "4", "--iters", "16"];
    let sharded = [&half[..], &["--shard-optimizer"]].concat();
    let text = succeed_on(4, &arguments("four", &sharded));
    let each = "4 ranks, each with 1 x 1 sequences of a step and the moments of a part of what is \
                trained\n";
    assert!(text.contains(each), "{text}");
    let mut files = names_in(&place, "four");
    let logs: Vec<_> = files.extract_if(.., |name| name.starts_with("log.")).collect();
    assert_eq!(logs, ["log.rank-1.txt", "log.rank-2.txt", "log.rank-3.txt"]);
    let resumed = [&whole[..], &["--resume"]].concat();
    let text = succeed_on(1, &arguments("four", &resumed));
    let last = |text: &str| text.lines().filter(|line| line.contains("Test loss")).count();
    assert_eq!((last(&text), last(&alone)), (1, 1), "{text}");
    assert_eq!(records(&place, "four"), records(&place, "one"));
    for name in ["adapter_model.safetensors", "best/adapter_model.safetensors"] {
        check_tensors(&place, ["four", "one"], name);
    }
    // And the other way.
    succeed_on(1, &arguments("back", &half));
    let text = succeed_on(4, &arguments("back", &resumed));
    assert!(text.contains("4 ranks, each with 1 x 1 sequences of a step\n"), "{text}");
    check_tensors(&place, ["back", "one"], "adapter_model.safetensors");

    let uneven = ["--grad-accumulation-steps", "3"];
    let parts =
        ["--grad-accumulation-steps 3 times --batch-size 1", "give --grad-accumulation-steps"];
    refuse_on(2, &arguments("none", &uneven), 3, &parts);
}
