//! What a run owes its user whatever happens to it: closed pipes, full disks, signals, kills. The
//! example `gpt` stands for all programs that use `evenkeel::run`.

use std::fs;
use std::io::{BufRead, BufReader, pipe};
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use evenkeel::train::Checkpoint;
use programs::{Place, borrowed, check_refusal, command, lines, run, succeed};
use safetensors::SafeTensors;
use serde_json::Value;

/// Signals and kills are those of Unix.
#[cfg(unix)]
mod ends;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/mod.rs"]
mod support;

/// Records without the one number that a clock gives.
fn records(metrics: &str) -> Vec<Value> {
    let mut records = lines(metrics);
    for record in &mut records {
        let removed = record.as_object_mut().and_then(|fields| fields.remove("tokens_per_second"));
        assert!(removed.is_some(), "{record}");
    }
    records
}

/// A table without the column that a clock gives.
fn rows(table: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(table.as_bytes());
    let rows = reader.records().map(|row| row.expect("a row"));
    let mut rows: Vec<Vec<String>> =
        rows.map(|row| row.iter().map(str::to_owned).collect()).collect();
    let clock = rows[0].iter().position(|name| name == "tokens_per_second").expect("a column");
    rows.iter_mut().for_each(|row| drop(row.remove(clock)));
    rows
}

fn saved_steps(place: &Place, out: &str) -> u64 {
    let bytes = fs::read(place.path(out) + "/checkpoint.safetensors").expect("a save");
    Checkpoint::from_bytes(&bytes).expect("a checkpoint").steps()
}

/// All files of a run are whole, and as those of another, bit by bit.
#[track_caller]
fn check_same(place: &Place, out: &str, expected: &str) {
    let file = |folder: &str, name: &str| place.read(&format!("{folder}/{name}"));
    let of = |folder| records(&file(folder, "metrics.jsonl"));
    let (found, wanted) = (of(out), of(expected));
    assert_eq!(found.len(), wanted.len(), "records");
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found, wanted);
    }
    assert_eq!(rows(&file(out, "run.csv")), rows(&file(expected, "run.csv")));
    assert!(file(out, "training.svg").trim_end().ends_with("</svg>"));
    let bytes =
        |folder: &str| fs::read(place.path(folder) + "/checkpoint.safetensors").expect("weights");
    let (found, wanted) = (bytes(out), bytes(expected));
    let [found, wanted] =
        [&found, &wanted].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
    let mut names = found.names();
    names.sort_unstable();
    assert!(names.len() > 20 && names.contains(&"evenkeel/state"), "{names:?}");
    assert_eq!(found.len(), wanted.len());
    for name in names {
        let [found, wanted] = [&found, &wanted].map(|file| file.tensor(name).expect("a tensor"));
        assert_eq!(found, wanted, "{name}");
    }
    let entries = fs::read_dir(place.path(out)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("new")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Arguments of a run in a folder of the place, with a table in it too.
fn arguments(place: &Place, out: &str, more: &[&str]) -> Vec<String> {
    let table = place.path(out) + "/run.csv";
    let folder = place.path(out);
    let own = ["--out", &folder, "--csv", &table, "--quiet", "--sample", "0"];
    place.arguments(None, &[&own, more].concat())
}

/// Waits until a run has saved a step other than the first.
fn wait_for_save(place: &Place, out: &str, child: &mut Child) {
    let begun = Instant::now();
    let previous = place.path(out) + "/previous.safetensors";
    while !Path::new(&previous).exists() {
        assert!(child.try_wait().expect("a child").is_none(), "the run has ended by itself");
        assert!(begun.elapsed() < Duration::from_secs(300), "nothing was saved");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn nobody_has_to_read_the_output() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "24", "--sample", "9", "--report", &place.path("run.html")];
    let arguments = place.arguments(None, &more);
    for (out, errors_too) in [("one", false), ("two", true)] {
        let out_argument = place.path(out);
        let all = [&borrowed(&arguments)[..], &["--out", &out_argument]].concat();
        let (reader, writer) = pipe().expect("a pipe");
        let mut command = command("gpt", &all);
        if errors_too {
            command.stderr(writer.try_clone().expect("another end"));
        }
        let mut child = command.stdout(writer).spawn().expect("started");
        drop(command);
        // As head -1 does.
        let mut line = String::new();
        let mut reader = BufReader::with_capacity(1, reader);
        reader.read_line(&mut line).expect("a line");
        assert!(line.starts_with("adapter "), "{line}");
        drop(reader);
        assert_eq!(child.wait().expect("an end").code(), Some(0), "{out}");
        assert_eq!(lines(&place.read(&format!("{out}/metrics.jsonl"))).len(), 24);
        assert!(place.read(&format!("{out}/training.svg")).trim_end().ends_with("</svg>"));
        assert!(place.read("run.html").contains("</html>"));
        assert!(place.read(&format!("{out}/sample.txt")).starts_with("the keel"));
        assert_eq!(saved_steps(&place, out), 24);
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

/// A disk without room, for what is printed and for records.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_costs_nothing_else() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let full = || fs::File::options().write(true).open("/dev/full").expect("there");
    let output = command("gpt", &arguments(&place, "print", &["--steps", "6"]))
        .stdout(full())
        .output()
        .expect("started");
    check_refusal(&output, &[], &["standard output could not be written", "No space left"]);
    assert_eq!(saved_steps(&place, "print"), 6);
    assert_eq!(records(&place.read("print/metrics.jsonl")).len(), 6);
    for example in ["one_kernel", "doctor"] {
        let mut command = command(example, if example == "doctor" { &["--quick"] } else { &[] });
        let output = command.stdout(full()).output().expect("started");
        check_refusal(&output, &[], &["standard output could not be written"]);
    }

    let more = ["--steps", "6", "--metrics", "/dev/full", "--save-every", "2"];
    let output = run("gpt", &borrowed(&arguments(&place, "records", &more)));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let said: Vec<_> = error.lines().collect();
    let [warning, last] = said[..] else { panic!("{error}") };
    assert!(warning.starts_with("warning: /dev/full") && warning.contains("goes on"), "{error}");
    assert!(last.starts_with("error: /dev/full") && last.contains("No space left"), "{error}");
    assert_eq!(saved_steps(&place, "records"), 6);
    assert_eq!(rows(&place.read("records/run.csv")).len(), 7);
    assert!(place.read("records/training.svg").contains("</svg>"));
}

#[test]
fn what_cannot_be_written_is_refused_and_kept() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let read_only = place.write("read_only.csv", b"an earlier table\n");
    let mut permissions = fs::metadata(&read_only).expect("there").permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&read_only, permissions.clone()).expect("set");
    for option in ["--csv", "--metrics", "--report"] {
        let more = place.arguments(None, &["--steps", "2", option, &read_only]);
        let output = run("gpt", &borrowed(&more));
        check_refusal(&output, &borrowed(&more), &[&read_only, "it is read-only", option]);
    }
    let output = run("spikes", &["--out", &read_only]);
    check_refusal(&output, &[], &[&read_only, "it is read-only"]);
    assert_eq!(place.read("read_only.csv"), "an earlier table\n");
    #[allow(clippy::permissions_set_readonly_false, reason = "the folder can be removed again")]
    permissions.set_readonly(false);
    fs::set_permissions(&read_only, permissions).expect("set");
}

#[test]
fn a_file_has_one_purpose() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let [a, text, out] = ["a", "text.txt", "out"].map(|name| place.path(name));
    let by_another_way = place.path("out/../a");
    fs::create_dir(&out).expect("made");
    let refuse = |more: &[&str], parts: &[&str]| {
        let output = run("gpt", &borrowed(&place.arguments(None, more)));
        check_refusal(&output, more, parts);
    };
    refuse(&["--metrics", &a, "--csv", &a], &[&a, "--metrics and --csv both name"]);
    refuse(&["--csv", &a, "--report", &by_another_way], &["--csv and --report both name"]);
    refuse(&["--report", &text], &[&text, "--text and --report both name"]);
    for name in ["metrics.jsonl", "training.svg", "sample.txt", "checkpoint.safetensors"] {
        let own = place.path(&format!("out/{name}"));
        refuse(&["--csv", &own], &[&own, "--csv", "--out", "choose another"]);
    }
    fs::hard_link(&text, &a).expect("linked");
    refuse(&["--csv", &a], &["--text and --csv both name"]);
    fs::remove_file(&a).expect("removed");
    #[cfg(unix)]
    {
        let links = ["link", "loop"].map(|name| place.path(name));
        std::os::unix::fs::symlink(&a, &links[0]).expect("linked");
        std::os::unix::fs::symlink(&links[1], &links[1]).expect("linked");
        refuse(&["--metrics", &a, "--report", &links[0]], &["both name this file"]);
        refuse(&["--csv", &links[1]], &["cannot be written"]);
        // Standard output goes to the same file.
        let more = place.arguments(None, &["--csv", &a]);
        let to_file = fs::File::create(&a).expect("a file");
        let output = command("gpt", &more).stdout(to_file).output().expect("started");
        check_refusal(&output, &borrowed(&more), &["this program's own output"]);
        fs::remove_file(&a).expect("removed");
    }
    assert!(!Path::new(&a).exists() && place.read("text.txt").starts_with("the keel"));
    let left: Vec<_> = fs::read_dir(&out).expect("a folder").collect();
    assert_eq!(left.len(), 1, "nothing but the lock: {left:?}");
}

#[test]
fn a_folder_has_one_run() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let long = ["--steps", "100000", "--save-every", "4"];
    let mut first = command("gpt", &arguments(&place, "out", &long)).spawn().expect("started");
    wait_for_save(&place, "out", &mut first);
    let second = run("gpt", &borrowed(&arguments(&place, "out", &["--steps", "2"])));
    check_refusal(&second, &[], &["another run is at work in this folder", "--out"]);
    if cfg!(unix) {
        let metrics = place.path("out/metrics.jsonl");
        let more = arguments(&place, "other", &["--steps", "2", "--metrics", &metrics]);
        check_refusal(&run("gpt", &borrowed(&more)), &[], &[&metrics, "another run writes it"]);
    }
    first.kill().expect("killed");
    drop(first.wait());

    // It did not come to its end.
    let before = fs::read(place.path("out/checkpoint.safetensors")).expect("a save");
    let refused = run("gpt", &borrowed(&arguments(&place, "out", &["--steps", "2"])));
    check_refusal(&refused, &[], &["of 100000", "--resume", "--restart"]);
    assert_eq!(fs::read(place.path("out/checkpoint.safetensors")).expect("a save"), before);
    succeed("gpt", &borrowed(&arguments(&place, "out", &["--steps", "2", "--restart"])));
    assert_eq!(
        (saved_steps(&place, "out"), records(&place.read("out/metrics.jsonl")).len()),
        (2, 2)
    );
    // One that did makes room.
    succeed("gpt", &borrowed(&arguments(&place, "out", &["--steps", "3"])));
    assert_eq!(saved_steps(&place, "out"), 3);
}

#[test]
fn what_makes_a_run_cannot_change_in_it() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let begin = arguments(&place, "out", &["--steps", "4", "--lr", "0.01"]);
    succeed("gpt", &borrowed(&begin));
    let out = place.path("out");
    let other = place.write("other.txt", "the keel keeps the boat wet.\n".repeat(40).as_bytes());
    let cases: [(&[&str], &[&str]); 4] = [
        (&["--width", "32"], &["--width 32 in a run that has 16", "leave --width out"]),
        (&["--seed", "4"], &["--seed 4 in a run that has 3"]),
        (&["--llama"], &["--llama true"]),
        (&["--text", &other], &[&other, "not the text that the run has learned"]),
    ];
    for (more, parts) in cases {
        let all = [&["--out", &out, "--resume"], more].concat();
        check_refusal(&run("gpt", &all), &all, parts);
    }
    // More steps, from another folder, with nothing said but where.
    let more = ["--out", &out, "--resume", "--steps", "7", "--quiet"];
    let output = command("gpt", &more).current_dir(place.folder.path()).output().expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let records = records(&place.read("out/metrics.jsonl"));
    assert_eq!(records.len(), 7);
    assert_eq!(rows(&place.read("out/run.csv")).len(), 8);
    assert_eq!(saved_steps(&place, "out"), 7);
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
        let all = place.arguments(Some(&file), &["--steps", "3", "--sample", "4", "--quiet"]);
        succeed("gpt", &borrowed(&all));
        (records(&place.read("out/metrics.jsonl")), place.read("out/sample.txt"))
    });
    assert!(runs[0].1.starts_with("Wörter und Zeilen,\n"));
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
}
