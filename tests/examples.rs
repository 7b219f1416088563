//! The examples as a user runs them, in a short form: what they print, write and refuse.

use std::fs;
use std::io::pipe;

use programs::{Place, check_refusal, command, run, succeed, without_adapter};
use serde_json::Value;

#[path = "support/programs.rs"]
mod programs;
mod support;

#[test]
fn gpt_learns_and_writes() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let file = place.path("text.txt");
    let text = succeed("gpt", &["--text", &file, "--steps", "120"]);
    assert!(text.contains(&format!("parameters learn {file} on ")), "{text}");
    let losses = |name: &str| -> Vec<f64> {
        let numbers = text.split(name).skip(1).filter_map(|rest| rest.split(',').next());
        numbers.map(|number| number.parse().expect("a number")).collect()
    };
    // 17 characters: ln 17 = 2.833.
    for losses in [losses(": loss "), losses("held out ")] {
        assert!(losses.len() == 3 && losses[2] < 1.0, "{text}");
    }
    assert_eq!(text.matches(" 0 skipped\n").count(), 3, "{text}");
    let sample = text.split("\n\n").nth(1).expect("a sample");
    assert!(sample.starts_with("the keel") && sample.contains("keeps the boat"), "{text}");

    let missing = place.path("missing.txt");
    let arguments = ["--text", &missing];
    check_refusal(&run("gpt", &arguments), &arguments, &[&missing, "cannot be read"]);
    let short = place.write("short.txt", b"a text of 27 characters. ok");
    let arguments = ["--text", &short];
    let parts = [&*short, "27 tokens", "a context of 64 needs 130"];
    check_refusal(&run("gpt", &arguments), &arguments, &parts);
}

#[test]
fn examples_say_where_no_adapter_is() {
    let place = Place::new();
    let cases: [(&str, &[&str]); 3] =
        [("gpt", &[]), ("doctor", &["--json"]), ("doctor", &["--all"])];
    for (example, arguments) in cases {
        let output = without_adapter(example, &place, arguments);
        check_refusal(&output, arguments, &["no GPU adapter found", "install a Vulkan"]);
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn no_example_minds_a_closed_pipe() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let plot = place.path("spikes.svg");
    let short = ["--steps", "100", "--width", "16", "--layers", "1", "--context", "8"];
    let tiny = ["--steps", "40", "--width", "16", "--layers", "1", "--context", "8"];
    let spikes = [&short[..], &["--batch", "2", "--out", &plot]].concat();
    // What the short runs of the last two come to is not always what they are to show: then they
    // say so, with exit code 1.
    let examples: [(&str, &[&str], &[i32]); 6] = [
        ("one_kernel", &[], &[0]),
        ("custom_op", &[], &[0]),
        ("digits", &["--epochs", "1"], &[0]),
        ("doctor", &["--quick"], &[0, 1]),
        ("mixed_precision", &tiny, &[0, 1]),
        ("spikes", &spikes, &[0, 1]),
    ];
    for (example, arguments, codes) in examples {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let mut command = command(example, arguments);
        command.stderr(writer.try_clone().expect("another end")).stdout(writer);
        let code = command.status().expect("started").code().expect("no signal");
        assert!(codes.contains(&code), "{example}: {code}");
    }
    assert!(place.read("spikes.svg").trim_end().ends_with("</svg>"));
}

/// A disk without room, for what is printed, and a file that cannot be written.
#[test]
fn what_cannot_be_written_is_said() {
    let Some(_) = support::gpu() else { return };
    let examples: [(&str, &[&str]); 2] = [("one_kernel", &[]), ("doctor", &["--quick"])];
    for (example, arguments) in examples.into_iter().filter(|_| cfg!(target_os = "linux")) {
        let full = fs::File::options().write(true).open("/dev/full").expect("there");
        let output = command(example, arguments).stdout(full).output().expect("started");
        check_refusal(&output, arguments, &["standard output could not be written"]);
    }
    let place = Place::new();
    let plot = place.write("plot.svg", b"an earlier plot\n");
    place.set_read_only("plot.svg", true);
    let arguments = ["--out", &*plot];
    check_refusal(&run("spikes", &arguments), &arguments, &[&plot, "it is read-only"]);
    assert_eq!(place.read("plot.svg"), "an earlier plot\n");
    place.set_read_only("plot.svg", false);
}

#[test]
fn digits_are_recognised() {
    let Some(_) = support::gpu() else { return };
    let text = succeed("digits", &["--epochs", "6"]);
    let accuracy = text.split("accuracy ").nth(1).and_then(|rest| rest.split(' ').next());
    let accuracy: f64 = accuracy.expect("an accuracy").parse().expect("a number");
    assert!(accuracy >= 95.0, "{text}");
}

#[test]
fn one_kernel_agrees_with_the_host() {
    let Some(_) = support::gpu() else { return };
    let text = succeed("one_kernel", &[]);
    assert!(text.contains("clip coefficient") && text.contains("agree with the host"), "{text}");
    assert!(text.matches("applied").count() == 2 && text.contains("skipped"), "{text}");
}

#[test]
fn custom_op_passes_its_checks() {
    let Some(_) = support::gpu() else { return };
    let text = succeed("custom_op", &[]);
    for part in ["finite differences", "agree with the CPU's", "training "] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    if cfg!(feature = "contract") {
        assert!(text.contains("declarations and WGSL agree"), "{text}");
    }
}

#[test]
fn doctor_reports_in_json() {
    let Some(gpu) = support::gpu() else { return };
    let text = succeed("doctor", &["--json", "--quick"]);
    let reports: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let [report] = reports.as_slice() else { panic!("{} reports", reports.len()) };
    assert_eq!(report["name"], *gpu.info.name);
    assert_eq!(report["software"], gpu.is_software());
    assert!(report["error"].is_null() && report["speed"].is_null(), "{text}");
    let numerics = pollster::block_on(gpu.numerics()).expect("numbers");
    assert_eq!(report["outcome"], numerics.outcome().to_string());
    let rows = report["checks"].as_array().expect("a list");
    assert_eq!(rows.len(), numerics.checks.len());
    for (row, check) in rows.iter().zip(&numerics.checks) {
        assert_eq!(row["name"], check.name);
        assert_eq!(row["outcome"], check.outcome.to_string(), "{row}");
        assert_eq!(
            (&row["found"], &row["consequence"]),
            (&Value::from(&*check.found), &Value::from(&*check.consequence))
        );
    }
    let functions = report["accuracy"].as_array().expect("a list");
    assert!(functions.iter().any(|function| function["operation"] == "Exp"), "{text}");
}

#[test]
fn doctor_prints_tables_of_all_adapters() {
    let Some(gpu) = support::gpu() else { return };
    // Other adapters of this machine may be unfit; the one that tests run on is among them.
    let output = run("doctor", &["--all", "--quick"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", output.status);
    for part in ["what the library does", "NaN and Inf in bits", "fit to train", &gpu.info.name] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert!(!text.contains("GB/s"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
}

#[test]
fn doctor_measures_speed() {
    let Some(_) = support::gpu() else { return };
    let text = succeed("doctor", &[]);
    assert!(text.contains("GB/s") && text.contains("GFLOP/s"), "{text}");
}

/// Within 2 % of f32 in f16 and bf16, or the program fails.
#[test]
fn mixed_precision_stays_close() {
    let Some(_) = support::gpu() else { return };
    let short = ["--steps", "60", "--width", "16", "--layers", "1", "--context", "16"];
    let text = succeed("mixed_precision", &short);
    for part in ["f32 ", "f16 ", "bf16 ", "16777216", "KiB"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

/// Each fault is skipped or undone, and the run ends near the clean one, or the program fails.
#[test]
fn spikes_are_survived() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let plot = place.path("spikes.svg");
    let short = ["--steps", "160", "--width", "16", "--layers", "1", "--context", "16"];
    let text = succeed("spikes", &[&short[..], &["--out", &plot]].concat());
    for part in ["RandomBatch", "LearningRate", "LossSpike", "RolledBack", "guarded against clean"]
    {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let answers = [": skipped", ": undone in step"].map(|answer| text.matches(answer).count());
    assert_eq!(answers.iter().sum::<usize>(), 4, "{text}");
    let svg = place.read("spikes.svg");
    let document = roxmltree::Document::parse(&svg).expect("well-formed");
    let lines = document.descendants().filter(|node| node.has_tag_name("polyline")).count();
    assert_eq!(lines, 3);
}

/// One rank that is a hundred times too fast, one with a NaN: both are left out, and all learn.
#[test]
fn diloco_survives_ranks_that_go_astray() {
    let Some(_) = support::gpu() else { return };
    let short = ["--ranks", "3", "--steps", "120", "--inner-steps", "10"];
    let text = succeed("diloco", &[&short[..], &["--astray", "1", "--nan", "2"]].concat());
    let rounds: Vec<_> = text.lines().filter(|line| line.starts_with("round ")).collect();
    assert_eq!(rounds.len(), 12, "{text}");
    let loss = |line: &str| -> f64 {
        let number = line.split("held out ").nth(1).and_then(|rest| rest.split(',').next());
        number.expect("a loss").parse().expect("a number")
    };
    let losses: Vec<_> = rounds.iter().map(|line| loss(line)).collect();
    assert!(losses[11] < 0.5 * losses[0], "{text}");
    for left_out in ["rank 1 was left out: it moved by ", "rank 2 was left out: its hidden.weight"]
    {
        assert!(text.contains(left_out), "{left_out:?} is missing in {text}");
    }
    assert!(!text.contains("rank 0 was left out"), "{text}");
    let bytes = text.lines().last().expect("a line");
    let bytes: Vec<f64> = bytes.split(' ').filter_map(|word| word.parse().ok()).collect();
    // A byte and a 64th of each parameter to two others once in ten steps; and 8 (3 - 1) / 3 in each.
    assert!(bytes[0] > 0.0 && 20.0 * bytes[0] < bytes[1], "{text}");

    let arguments = ["--ranks", "2", "--inner-steps", "0"];
    let parts = ["inner_steps of DiLoCo is 0, but must be at least 1"];
    check_refusal(&run("diloco", &arguments), &arguments, &parts);
}
