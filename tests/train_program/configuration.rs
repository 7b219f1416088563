//! Files of options, what a dry run says, and the dial.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::programs::{Place, SMALL, lines};
use crate::{TRAIN, arguments, is_there, programs, run, support};

/// The options that a dry run prints, which are a configuration by themselves.
fn dry_run(arguments: &[&str]) -> String {
    programs::succeed(TRAIN, &[arguments, &["--dry-run"]].concat())
}

fn option(text: &str, name: &str) -> Option<Value> {
    let start = format!("{name}: ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start))?;
    Some(serde_json::from_str(value).expect("JSON"))
}

#[test]
fn files_come_after_the_command_line_and_before_the_preset() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let data = place.path("text.txt");
    let yaml = format!(
        "# a run\ndata: {data:?}\npreset: tiny\nlayers: 1\nheads: 2\nwidth: 16\ncontext: 16\n\
         batch: 4\nlearning-rate: 2e-2\nsteps: 9\nsample: 0\nschedule: linear\nseed: 3\n"
    );
    let toml = format!(
        "# a run\ndata = [{data:?}]\npreset = \"tiny\"\nlayers = 1\nheads = 2\nwidth = 16\n\
         context = 16\nbatch = 4\nlr = 2e-2\nsteps = 9\nsample = 0\nschedule = \"linear\"\nseed = 3\n"
    );
    for (name, contents) in [("run.yaml", yaml), ("run.toml", toml)] {
        let path = place.write(name, contents.as_bytes());
        let out = place.path(&format!("{name}.out"));
        let common = ["--config", &path, "--out", &out];
        programs::succeed(TRAIN, &[&common[..], &["--steps", "6"]].concat());
        let records = lines(&place.read(&format!("{name}.out/metrics.jsonl")));
        assert_eq!(records.len(), 6, "the command line comes first");
        // One step of warm-up, then five to a tenth.
        let rate = records[5]["learning_rate"].as_f64().expect("a number");
        assert!((rate - 0.02 * (1.0 - 0.9 * 4.0 / 5.0)).abs() < 1e-6, "{rate}");

        let text = dry_run(&common);
        assert_eq!(option(&text, "steps"), Some(9.into()), "{text}");
        assert_eq!(option(&text, "weight_decay"), Some(0.1.into()), "of the preset: {text}");
    }
    let bad = place.write("bad.yaml", b"bacth: 3\n");
    crate::refuse(&["--config".into(), bad], 3, &["bad.yaml", "\"bacth\"", "\"batch\""]);
    let bad = place.write("bad.toml", b"batch = 'many'\n");
    crate::refuse(&["--config".into(), bad], 3, &["bad.toml", "batch cannot be \"many\""]);
    let bad = place.write("bad.json", b"{}");
    crate::refuse(&["--config".into(), bad], 3, &["bad.json", ".yaml, .yml or .toml"]);
}

#[test]
fn learning_rates_fall_as_asked() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let common = ["--steps", "10", "--warmup", "2", "--lr", "0.01", "--sample", "0", "--quiet"];
    // Shares of the highest rate in the last four steps, down to a fifth.
    let wsd = |fall: fn(f64) -> f64| [0.0, 0.25, 0.5, 0.75].map(|x| 0.2 + 0.8 * (1.0 - fall(x)));
    let since_start = [7.0, 8.0, 9.0, 10.0].map(|step: f64| (2.0 / step).sqrt());
    for (shape, expected) in
        [("wsd", wsd(f64::sqrt)), ("wsd-linear", wsd(|x| x)), ("inverse-sqrt", since_start)]
    {
        let more = ["--schedule", shape, "--decay", "4", "--final-lr", "0.2"];
        let more = [&common[..], &more].concat();
        crate::succeed(&arguments(&place, shape, &["text.txt"], &more));
        let records = lines(&place.read(&format!("{shape}/metrics.jsonl")));
        let share = |step: usize| records[step]["learning_rate"].as_f64().expect("a rate") / 0.01;
        for (step, expected) in (6..10).zip(expected) {
            let found = share(step);
            assert!((found - expected).abs() < 1e-6, "{shape}, step {step}: {found}, {expected}");
        }
    }
}

#[test]
fn models_are_of_the_averages_where_they_are_kept() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "20", "--sample", "20", "--ema", "0.9", "--lr", "0.02"];
    crate::succeed(&arguments(&place, "out", &["text.txt"], &more));
    let file = |name: &str| fs::read(place.path(&format!("out/{name}"))).expect("a file");
    let (model, save) = (file("model/model.safetensors"), file("checkpoint.safetensors"));
    let [model, save] =
        [&model, &save].map(|bytes| SafeTensors::deserialize(bytes).expect("tensors"));
    let names = model.names();
    let name = names.iter().find(|name| name.ends_with("ln_f.weight")).expect("the last norm");
    let written = model.tensor(name).expect("it");
    let average = save.tensor("evenkeel/average/norm.weight").expect("an average");
    assert_eq!(written.data(), average.data());
    assert_ne!(written.data(), save.tensor("norm.weight").expect("a weight").data());
    // It goes on with them.
    let out = place.path("out");
    programs::succeed(TRAIN, &["--resume", &out, "--steps", "24", "--quiet", "--sample", "0"]);
    for (value, says) in [("1", "--ema is 1"), ("-0.5", "--ema is -0.5")] {
        let more = arguments(&place, "bad", &["text.txt"], &["--ema", value]);
        crate::refuse(&more, 3, &[says, "below 1"]);
    }
}

#[test]
fn a_dry_run_says_all_and_does_nothing() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let (out, data) = (place.path("out"), place.path("text.txt"));
    let common = [&SMALL[..], &["--out", &out, "--data", &data, "--steps", "4"]].concat();
    let text = dry_run(&common);
    assert!(!is_there(&place, "out"), "nothing is made");
    for part in ["# on the device", "moments", "parameters", "nothing was started"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    // It is a configuration, of the same run, in which nothing is left to choose.
    let path = place.write("again.yaml", text.as_bytes());
    let again = dry_run(&["--config", &path]);
    let is_choice = |line: &&str| line.starts_with("# precision ");
    assert_eq!((text.lines().filter(is_choice).count(), again.contains("# precision")), (1, false));
    assert!(again.lines().eq(text.lines().filter(|line| !is_choice(line))), "{again}\n{text}");
    programs::succeed(TRAIN, &["--config", &path, "--sample", "0", "--quiet"]);
    let from_file = crate::losses(&place, "out");
    // So are the settings that the run keeps, whose sample was asked for otherwise.
    let kept = place.read("out/config.yaml");
    let differ = |line: &&str| !line.starts_with('#') && !kept.lines().any(|other| other == *line);
    let differ: Vec<_> = text.lines().filter(differ).collect();
    assert_eq!(differ, ["sample: 500"], "{kept}");
    let other = place.path("other");
    let other = ["--out", &other, "--data", &data, "--steps", "4", "--sample", "0", "--quiet"];
    programs::succeed(TRAIN, &[&SMALL[..], &other].concat());
    assert_eq!(from_file, crate::losses(&place, "other"));

    let text = dry_run(&["--data", &data, "--out", &out, "--tokenizer", "bpe:400"]);
    assert!(text.contains("vocabulary of 400"), "{text}");
}

#[test]
fn what_the_dial_says_is_what_it_does() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let (out, data) = (place.path("out"), place.path("text.txt"));
    let common = ["--data", &data, "--depth", "1", "--context", "16", "--out", &out];
    let text = dry_run(&[&common[..], &["--budget", "4000"]].concat());
    for part in [
        "# layers 1: the depth",
        "# width 64: 64 x 1 layers",
        "# heads 1: 64 columns each",
        "# context 16: given",
        "# lr 0.00208: 6e-4 sqrt(768 / width)",
        "# weight_decay 0.1: ",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let number = |name| option(&text, name).and_then(|value| value.as_u64()).expect("a number");
    let in_step = number("batch") * number("accumulation") * 16;
    assert_eq!(number("steps"), 4000_u64.div_ceil(in_step));
    assert_eq!(option(&text, "lr"), Some(0.00208.into()));
    assert_eq!(option(&text, "family"), Some("llama".into()));
    // What follows from steps is not known before those of a time are.
    let text = dry_run(&[&common[..], &["--budget", "30m"]].concat());
    for name in ["steps", "save_every", "evaluate_every", "warmup"] {
        assert_eq!(option(&text, name), None, "{text}");
    }

    // A time has as many steps as it has room for, and what is given stays.
    let more = ["--budget", "1s", "--batch", "2", "--accumulation", "1", "--sample", "0"];
    let more = [&common[..], &more, &["--evaluate-every", "100000"]].concat();
    let arguments: Vec<_> = more.iter().map(|one| (*one).to_owned()).collect();
    let output = run(&arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let line = text.lines().find(|line| line.starts_with("steps  ")).expect("a reason");
    let steps: usize = line.split_whitespace().nth(1).expect("steps").parse().expect("a number");
    assert!(line.contains("1 s") && line.contains("ms each"), "{line}");
    assert_eq!(crate::losses(&place, "out").len(), steps);
    assert!(text.contains(&format!("run      {steps} steps")), "{text}");
}
