//! Files and folders of a run: who has them, and what happens where they cannot be written.

use std::fs;
use std::io::{BufRead, BufReader, pipe};
use std::path::Path;

use crate::programs::{Place, check_failure, lines};
use crate::{
    arguments, check_refusal, command, records, refuse, resumed, rows, run, saved_steps, succeed,
    support, wait_for_save,
};

#[test]
fn nobody_has_to_read_the_output() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let (html, steps) = (place.path("run.html"), ["--steps", "24", "--sample", "9"]);
    for (out, errors_too) in [("one", false), ("two", true)] {
        let folder = place.path(out);
        let more = [&steps[..], &["--report", &html, "--out", &folder]].concat();
        let arguments = place.arguments(None, &more);
        let (reader, writer) = pipe().expect("a pipe");
        let mut command = command(&arguments);
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

/// A disk without room, for what is printed and for records.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_costs_nothing_else() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let full = fs::File::options().write(true).open("/dev/full").expect("there");
    let print = arguments(&place, "print", &["--steps", "6"]);
    let output = command(&print).stdout(full).output().expect("started");
    let parts = ["standard output could not be written", "No space left"];
    check_failure(&output, 1, &[], &parts);
    assert_eq!(saved_steps(&place, "print"), 6);
    assert_eq!(records(&place.read("print/metrics.jsonl")).len(), 6);
    assert!(!Path::new(&place.path("print/sample.txt")).exists(), "none was asked for");

    let more = ["--steps", "6", "--metrics", "/dev/full", "--save-every", "2"];
    let output = run(&arguments(&place, "records", &more));
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
    place.set_read_only("read_only.csv", true);
    for option in ["--csv", "--metrics", "--report"] {
        let more = ["--steps", "2", option, &read_only];
        refuse(&place, &more, &[&read_only, "it is read-only", option]);
    }
    assert_eq!(place.read("read_only.csv"), "an earlier table\n");
    place.set_read_only("read_only.csv", false);
}

#[test]
fn a_file_has_one_purpose() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let [a, text, out] = ["a", "text.txt", "out"].map(|name| place.path(name));
    let by_another_way = place.path("out/../a");
    fs::create_dir(&out).expect("made");
    let refuse = |more: &[&str], parts: &[&str]| refuse(&place, more, parts);
    refuse(&["--metrics", &a, "--csv", &a], &[&a, "--metrics and --csv both name"]);
    refuse(&["--csv", &a, "--report", &by_another_way], &["--csv and --report both name"]);
    refuse(&["--report", &text], &[&text, "--data and --report both name"]);
    for name in ["metrics.jsonl", "training.svg", "sample.txt", "checkpoint.safetensors"] {
        let own = place.path(&format!("out/{name}"));
        refuse(&["--csv", &own], &[&own, "--csv", "--out", "choose another"]);
    }
    fs::hard_link(&text, &a).expect("linked");
    refuse(&["--csv", &a], &["--data and --csv both name"]);
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
        let output = command(&more).stdout(to_file).output().expect("started");
        check_refusal(&output, &more, &["this program's own output"]);
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
    let mut first = command(&arguments(&place, "out", &long)).spawn().expect("started");
    wait_for_save(&place, "out", &mut first);
    let again = arguments(&place, "out", &["--steps", "2", "--restart"]);
    for second in [again, resumed(&place, "out", &[])] {
        let parts = ["another run is at work in this folder", "--out"];
        check_refusal(&run(&second), &second, &parts);
    }
    if cfg!(unix) {
        let metrics = place.path("out/metrics.jsonl");
        let more = arguments(&place, "other", &["--steps", "2", "--metrics", &metrics]);
        check_refusal(&run(&more), &more, &[&metrics, "another run writes it"]);
    }
    first.kill().expect("killed");
    drop(first.wait());

    // It did not come to its end.
    let before = fs::read(place.path("out/checkpoint.safetensors")).expect("a save");
    let short = arguments(&place, "out", &["--steps", "2"]);
    check_refusal(&run(&short), &short, &["of 100000", "--resume", "--restart"]);
    assert_eq!(fs::read(place.path("out/checkpoint.safetensors")).expect("a save"), before);
    succeed(&arguments(&place, "out", &["--steps", "2", "--restart"]));
    assert_eq!(
        (saved_steps(&place, "out"), records(&place.read("out/metrics.jsonl")).len()),
        (2, 2)
    );
    // One that did makes room.
    succeed(&arguments(&place, "out", &["--steps", "3"]));
    assert_eq!(saved_steps(&place, "out"), 3);
}

/// Paths mean the same from every folder.
#[test]
fn a_run_goes_on_from_another_folder() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let relative = ["--out", "out", "--data", "text.txt", "--csv", "table.csv", "--quiet"];
    let begin = [&relative[..], &["--steps", "4", "--sample", "0"]].concat();
    let begin = place.arguments(None, &begin);
    let at = |arguments: &[String], folder: &Path| {
        let output = command(arguments).current_dir(folder).output().expect("started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    at(&begin, place.folder.path());
    let elsewhere = tempfile::tempdir().expect("a folder");
    // More steps, with nothing said but where.
    at(&resumed(&place, "out", &["--steps", "7"]), elsewhere.path());
    assert_eq!(records(&place.read("out/metrics.jsonl")).len(), 7);
    assert_eq!(rows(&place.read("table.csv")).len(), 8);
    assert_eq!(saved_steps(&place, "out"), 7);
    assert_eq!(fs::read_dir(elsewhere.path()).expect("a folder").count(), 0);
}
