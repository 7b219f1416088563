//! What a run says of itself: records, charts, profiles, samples.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::programs::{Place, lines, loss};
use crate::{records, run, succeed, support};

#[test]
fn records_go_where_they_were_asked_to() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let metrics = place.path("more/run.jsonl");
    let more = ["--steps", "24", "--lr", "0.02", "--evaluate-every", "10", "--sample", "40"];
    let [csv, logs, report] = ["more/run.csv", "logs/run", "more/run.html"].map(|p| place.path(p));
    let files = ["--csv", &csv, "--tensorboard", &logs, "--report", &report];
    let more = [&more[..], &["--report-every", "4", "--metrics", &metrics], &files].concat();
    let text = succeed(&place.arguments(None, &more));

    for part in [
        "adapter ",
        "parameters",
        "MiB",
        "dispatches",
        "24 steps",
        "validation",
        "norm",
        "clip threshold",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let files = ["more/run.jsonl", "more/run.csv", "logs/run", "more/run.html"];
    for file in files.into_iter().chain(["out/training.svg", "out/sample.txt"]) {
        assert!(text.contains(&place.path(file)), "{file} is missing in {text}");
    }
    check_records(&lines(&place.read("more/run.jsonl")));

    let svg = place.read("out/training.svg");
    assert!(svg.trim_start().starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    let html = place.read("more/run.html");
    for part in ["loss", "gradient norm", "step", "validation", "clipped", "guessing at random"] {
        assert!(svg.contains(part), "{part:?} is missing in the plot");
        assert!(html.contains(part), "{part:?} is missing in the report");
    }
    let csv = place.read("more/run.csv");
    assert!(csv.starts_with("step,loss,gradient_norm,") && csv.lines().count() == 25, "{csv}");
    let events = fs::read_dir(logs).expect("a folder").count();
    assert_eq!(events, 1, "one event file");
}

fn check_records(lines: &[Value]) {
    assert_eq!(lines.len(), 24);
    for (step, line) in lines.iter().enumerate() {
        let fields = line.as_object().expect("an object").keys().cloned();
        let (tensors, fields): (BTreeSet<_>, BTreeSet<_>) =
            fields.partition(|field| field.contains('/'));
        let watched = step.is_multiple_of(4);
        assert_eq!(tensors.contains("gradient_norm/norm.weight"), watched, "step {step}");
        assert_eq!(tensors.is_empty(), !watched, "step {step}");
        let validated = [9, 19, 23].contains(&step).then_some("validation_loss");
        let expected = ["step", "loss", "gradient_norm", "clip_coefficient", "loss_scale"]
            .into_iter()
            .chain(["learning_rate", "applied", "skipped_total", "nonfinite_count", "zero_count"])
            .chain(["tokens_per_second", "clipped_norm", "clip_share"])
            .chain(["loss_spike_score", "norm_spike_score"])
            .chain(validated);
        assert_eq!(fields, expected.map(str::to_owned).collect(), "step {step}");
        assert_eq!((&line["step"], &line["applied"]), (&step.into(), &1.into()));
        let coefficient = line["clip_coefficient"].as_f64().expect("a number");
        let norm = line["gradient_norm"].as_f64().expect("a number");
        assert!((coefficient - (1.0 / norm).min(1.0)).abs() < 1e-5, "{line}");
        assert!(line["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0), "{line}");
    }
    // 17 characters: ln 17 = 2.833.
    assert!((loss(&lines[0]) - 2.833).abs() < 0.1, "{}", lines[0]);
    assert!(loss(&lines[23]) < 2.4, "{}", lines[23]);
    let validation = lines[23]["validation_loss"].as_f64().expect("a number");
    assert!(validation < 2.4, "{validation}");
}

#[test]
fn a_run_repeats_exactly() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let run = || {
        let more = ["--steps", "6", "--accumulation", "2", "--family", "llama", "--dropout", "0.1"];
        let more = [&more[..], &["--quiet", "--sample", "20"]].concat();
        let text = succeed(&place.arguments(None, &more));
        assert!(!text.contains("adapter "), "{text}");
        let records = records(&place.read("out/metrics.jsonl"));
        assert_eq!(records.len(), 6);
        (records, place.read("out/sample.txt"))
    };
    assert_eq!(run(), run());
}

#[test]
fn skipped_steps_are_shown() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "8", "--lr", "1e30", "--clip", "0", "--weight-decay", "0"];
    let more = [&more[..], &["--report-every", "1", "--evaluate-every", "1"]].concat();
    let output = run(&place.arguments(None, &more));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("SKIPPED") && text.contains("steps were skipped"), "{text}");
    let lines = lines(&place.read("out/metrics.jsonl"));
    let skipped = lines.iter().filter(|line| line["applied"] == 0).count();
    assert!(skipped > 0 && lines[7]["skipped_total"] == skipped, "{}", lines[7]);
    // The strip's name is there always, marks only where steps were skipped.
    assert!(place.read("out/training.svg").contains("<rect class='skipped'"));
}

/// And the run is the one that it is without.
#[test]
fn some_steps_are_profiled() {
    let Some(_) = support::gpu() else { return };
    let run = |more: &[&str]| {
        let place = Place::new();
        let trace = place.path("more/trace.json");
        let more: Vec<_> =
            more.iter().map(|&part| if part == "FILE" { &*trace } else { part }).collect();
        let more = [&["--steps", "6", "--sample", "9", "--quiet"], &more[..]].concat();
        let text = succeed(&place.arguments(None, &more));
        let learned = (records(&place.read("out/metrics.jsonl")), place.read("out/sample.txt"));
        let written = Path::new(&trace).exists().then(|| place.read("more/trace.json"));
        assert_eq!(text.contains(&trace), written.is_some(), "{text}");
        (text, learned, written)
    };
    let (plain, learned, written) = run(&[]);
    assert!(!plain.contains("kernel ") && written.is_none(), "{plain}");
    let (text, same, written) = run(&["--profile"]);
    assert!(written.is_none() && same == learned, "{same:?} and {learned:?}");
    for part in ["one step on ", "at best: ", "\nkernel ", "\nadamw ", "\nmodule ", "\nupdate "] {
        assert_eq!(text.matches(part).count(), 1, "{part:?} in {text}");
    }
    let (text, same, written) = run(&["--profile", "FILE"]);
    assert!(text.contains("\nblocks.0.attention ") && same == learned, "{text}");
    let trace: Value = serde_json::from_str(&written.expect("a trace")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    assert!(events.iter().any(|event| event["name"] == "adamw" && event["ph"] == "X"));
}

/// Each precision learns, and the report has a strip for each tensor.
#[test]
fn half_precision_is_reported() {
    let Some(_) = support::gpu() else { return };
    for precision in ["f16", "bf16"] {
        let place = Place::new();
        let report = place.path("report.html");
        let short = ["--steps", "24", "--lr", "0.02", "--sample", "0"];
        let more = [&short[..], &["--precision", precision, "--report", &report]].concat();
        succeed(&place.arguments(None, &more));
        let metrics = lines(&place.read("out/metrics.jsonl"));
        let applied: Vec<_> = metrics.iter().filter(|line| line["applied"] == 1).collect();
        assert!(loss(applied[applied.len() - 1]) < loss(applied[0]), "{precision}");
        let watched = &metrics[0]["gradient_norm/token_embedding.weight"];
        assert!(watched.is_number(), "{}", metrics[0]);
        assert!(place.read("report.html").contains("token_embedding.weight"));
    }
}

/// The same text in other encodings gives the same run.
#[test]
fn encodings_are_no_part_of_a_text() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let text = "Wörter und Zeilen,\nüber 😀 hinaus\n".repeat(30);
    let wide = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    let files = [
        text.clone().into_bytes(),
        wide.clone().into_bytes(),
        wide.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        wide.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    ];
    let runs = files.map(|bytes| {
        let file = place.write("encoded.txt", &bytes);
        succeed(&place.arguments(Some(&file), &["--steps", "3", "--sample", "4", "--quiet"]));
        (records(&place.read("out/metrics.jsonl")), place.read("out/sample.txt"))
    });
    assert!(runs[0].1.starts_with("Wörter und Zeilen,\n"));
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
}
