//! The examples as a user runs them, in a short form: what they print, write and refuse.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use programs::{Place, SMALL, borrowed, check_refusal, folder, lines, loss, refuse, run, succeed};
use serde_json::Value;

#[path = "support/programs.rs"]
mod programs;
mod support;

#[test]
fn gpt_learns_and_writes() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let metrics = place.path("more/run.jsonl");
    let more = ["--steps", "24", "--lr", "0.02", "--evaluate-every", "10", "--sample", "40"];
    let [csv, logs, report] = ["more/run.csv", "logs/run", "more/run.html"].map(|p| place.path(p));
    let files = ["--csv", &csv, "--tensorboard", &logs, "--report", &report];
    let more = [&more[..], &["--report-every", "4", "--metrics", &metrics], &files].concat();
    let text = succeed("gpt", &borrowed(&place.arguments(None, &more)));

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
    let sample = place.read("out/sample.txt");
    let prompt = "the keel keeps the boat even; th";
    assert!(sample.starts_with(prompt), "{sample:?}");
    assert_eq!(sample.chars().count(), prompt.len() + 40);
    assert!(text.contains(&sample), "{text}");

    let lines = lines(&place.read("more/run.jsonl"));
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

#[test]
fn gpt_repeats_a_run_exactly() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let run = || {
        let more = ["--steps", "6", "--accumulation", "2", "--llama", "--dropout", "0.1"];
        let more = [&more[..], &["--quiet", "--sample", "20"]].concat();
        let text = succeed("gpt", &borrowed(&place.arguments(None, &more)));
        assert!(!text.contains("adapter "), "{text}");
        let losses: Vec<_> = lines(&place.read("out/metrics.jsonl")).iter().map(loss).collect();
        assert_eq!(losses.len(), 6);
        (losses, place.read("out/sample.txt"))
    };
    assert_eq!(run(), run());
}

#[test]
fn gpt_reads_bytes_and_its_own_repository() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let latin1 = place.write("latin1.txt", &b"caf\xe9 au lait\n".repeat(40));
    let more = ["--steps", "2", "--sample", "3", "--bytes"];
    let text = succeed("gpt", &borrowed(&place.arguments(Some(&latin1), &more)));
    assert!(text.contains("256 bytes"), "{text}");

    let out = place.path("repository");
    let arguments = [&SMALL[..], &["--steps", "1", "--sample", "0", "--out", &out]].concat();
    let text = succeed("gpt", &arguments);
    assert!(text.contains("this repository (") && !text.contains("--- sample"), "{text}");
    assert!(!Path::new(&out).join("sample.txt").exists());
}

#[test]
fn gpt_shows_skipped_steps() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "8", "--lr", "1e30", "--clip", "0", "--weight-decay", "0"];
    let more = [&more[..], &["--report-every", "1", "--evaluate-every", "1"]].concat();
    let output = run("gpt", &borrowed(&place.arguments(None, &more)));
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
fn gpt_profiles_a_step() {
    let Some(_) = support::gpu() else { return };
    let run = |more: &[&str]| {
        let place = Place::new();
        let trace = place.path("more/trace.json");
        let more: Vec<_> =
            more.iter().map(|&part| if part == "FILE" { &*trace } else { part }).collect();
        let more = [&["--steps", "6", "--sample", "9", "--quiet"], &more[..]].concat();
        let text = succeed("gpt", &borrowed(&place.arguments(None, &more)));
        let losses: Vec<_> = lines(&place.read("out/metrics.jsonl")).iter().map(loss).collect();
        let learned = (losses, place.read("out/sample.txt"));
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

#[test]
fn gpt_refuses_bad_texts_and_folders() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let refuse_text = |text: &str, more: &[&str], parts: &[&str]| {
        refuse(&borrowed(&place.arguments(Some(text), more)), parts);
    };
    let missing = place.path("missing.txt");
    refuse_text(&missing, &[], &[&missing, "cannot be read"]);
    let empty = place.write("empty.txt", b"");
    refuse_text(&empty, &[], &[&empty, "is empty", "give one"]);
    let marked = place.write("mark.txt", b"\xff\xfe");
    refuse_text(&marked, &[], &[&marked, "is empty", "a byte-order mark and nothing else"]);
    let latin1 = place.write("latin1.txt", b"two\nlines, caf\xe9\n");
    refuse_text(&latin1, &[], &[&latin1, "byte 0xE9 at offset 14 (line 2) is no UTF-8"]);
    let wide: Vec<u8> = "no mark\n".repeat(40).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wide = place.write("wide.txt", &wide);
    refuse_text(&wide, &[], &[&wide, "UTF-16 (little-endian)", "byte-order mark"]);
    refuse_text(&place.path(""), &[], &["this is a folder"]);
    if cfg!(unix) {
        refuse_text("/dev/zero", &[], &["/dev/zero: this is a device"]);
    }
    let short = place.write("short.txt", b"a text of 27 characters. ok");
    let parts = [&*short, "27 tokens", "a context of 16 needs 34", "at most 12"];
    refuse_text(&short, &[], &parts);
    refuse_text(
        &place.path("text.txt"),
        &["--prompt", "Z"],
        &["'Z'", "vocabulary", "'\\n' to 'w'"],
    );
    refuse_text(&place.path("text.txt"), &["--prompt", ""], &["--prompt is empty"]);

    let file = place.path("text.txt");
    let text = ["--text", &file];
    let below = place.path("text.txt/out");
    refuse(&[&text[..], &["--out", &below]].concat(), &[&below, "cannot be written", "--out"]);
    let out = place.path("out");
    let folder = place.path("");
    let metrics = ["--out", &out, "--metrics", &folder];
    refuse(&[&text[..], &metrics].concat(), &["cannot be written", "--metrics"]);
    for option in ["--csv", "--report", "--profile"] {
        let arguments = [&text[..], &["--out", &out, option, &folder]].concat();
        refuse(&arguments, &["cannot be written", option]);
    }
    let arguments = [&text[..], &["--out", &out, "--tensorboard", &below]].concat();
    refuse(&arguments, &[&below, "cannot be written", "--tensorboard"]);
    // Standard output is no terminal here.
    let more = ["--steps", "1", "--dashboard"];
    refuse(&borrowed(&place.arguments(None, &more)), &["dashboard", "is not supported"]);
}

#[test]
fn gpt_refuses_bad_settings_and_keeps_files() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    fs::create_dir(place.path("out")).expect("a folder");
    let kept = ["out/metrics.jsonl", "out/training.svg", "out/sample.txt"];
    kept.iter().for_each(|name| drop(place.write(name, b"an earlier run\n")));
    let cases: [(&[&str], &[&str]); 14] = [
        (&["--steps", "0"], &["--steps is 0", "at least 1"]),
        (&["--batch", "0"], &["--batch is 0", "at least 1"]),
        (&["--accumulation", "0"], &["--accumulation is 0", "at least 1"]),
        (&["--context", "0"], &["--context is 0", "at least 1"]),
        (&["--layers", "0"], &["--layers is 0", "at least 1"]),
        (&["--width", "30", "--heads", "4"], &["--heads is 4 with a --width of 30", "divisor"]),
        (&["--width", "12", "--heads", "2"], &["width / heads is 6", "multiple of 4"]),
        (&["--llama", "--kv-heads", "3"], &["--kv-heads is 3 with 2 --heads", "divisor"]),
        (&["--lr", "nan"], &["--lr is NaN", "finite"]),
        (&["--lr", "-1"], &["--lr is -1", "above 0"]),
        (&["--clip", "inf"], &["--clip is inf", "finite"]),
        (&["--dropout", "1"], &["--dropout is 1", "[0, 1)"]),
        (&["--temperature", "-1"], &["--temperature is -1", "not negative"]),
        (
            &["--batch", "4000000"],
            &["of shape (4000000, 16, 16)", "maxStorageBufferBindingSize", "4096000000", "fit"],
        ),
    ];
    for (more, parts) in cases {
        // Of an option given twice the later one counts.
        refuse(&borrowed(&place.arguments(None, more)), parts);
    }
    for name in kept {
        assert_eq!(place.read(name), "an earlier run\n", "{name}");
    }
    assert_eq!(run("gpt", &["--steps", "many"]).status.code(), Some(2));
    assert_eq!(run("gpt", &["--unknown"]).status.code(), Some(2));
}

/// A run that finds no driver.
fn without_adapter(example: &str, place: &Place, arguments: &[&str]) -> Output {
    let program = folder().join(format!("{example}{}", std::env::consts::EXE_SUFFIX));
    let nowhere = place.path("no_driver.json");
    Command::new(program)
        .args(arguments)
        .env("WGPU_BACKEND", "vulkan")
        .env("VK_DRIVER_FILES", &nowhere)
        .env("VK_ICD_FILENAMES", &nowhere)
        .env("VK_LOADER_DRIVERS_DISABLE", "*")
        .env_remove("WGPU_ADAPTER_NAME")
        .output()
        .expect("the example starts")
}

#[test]
fn gpt_says_where_no_adapter_is() {
    let place = Place::new();
    let arguments = place.arguments(None, &[]);
    let output = without_adapter("gpt", &place, &borrowed(&arguments));
    check_refusal(&output, &borrowed(&arguments), &["no GPU adapter found", "install a Vulkan"]);
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

#[test]
fn doctor_says_where_no_adapter_is() {
    let place = Place::new();
    for arguments in [&["--json"][..], &["--all"]] {
        let output = without_adapter("doctor", &place, arguments);
        check_refusal(&output, arguments, &["no GPU adapter found", "install a Vulkan"]);
        assert!(output.stdout.is_empty());
    }
}

/// Each precision learns, and the report has a strip for each tensor.
#[test]
fn gpt_in_half_precision() {
    let Some(_) = support::gpu() else { return };
    for precision in ["f16", "bf16"] {
        let place = Place::new();
        let report = place.path("report.html");
        let short = ["--steps", "24", "--lr", "0.02", "--sample", "0"];
        let more = [&short[..], &["--precision", precision, "--report", &report]].concat();
        let arguments = place.arguments(None, &more);
        succeed("gpt", &borrowed(&arguments));
        let metrics = lines(&place.read("out/metrics.jsonl"));
        let applied: Vec<_> = metrics.iter().filter(|line| line["applied"] == 1).collect();
        assert!(loss(applied[applied.len() - 1]) < loss(applied[0]), "{precision}");
        let watched = &metrics[0]["gradient_norm/token_embedding.weight"];
        assert!(watched.is_number(), "{}", metrics[0]);
        assert!(place.read("report.html").contains("token_embedding.weight"));
    }
    let place = Place::new();
    let output = run("gpt", &borrowed(&place.arguments(None, &["--precision", "f8"])));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("bf16"), "{error}");
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
