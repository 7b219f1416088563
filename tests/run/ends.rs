//! The ends that a run may come to: signals and kills.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evenkeel::reference::random::{threefry4x32, uniform_unit};
use serde_json::Value;

use crate::programs::Place;
use crate::{arguments, check_same, command, records, resumed, saved_steps, succeed, support};

const STEPS: [&str; 6] = ["--steps", "120", "--save-every", "4", "--report-every", "5"];

fn send(signal: &str, child: &Child) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(status.expect("kill").success());
}

/// So many that none comes to its end before a signal does. Nothing is saved on the way but the first
/// state.
const LONG: [&str; 6] = ["--steps", "400", "--save-every", "0", "--report-every", "5"];

fn reference(place: &Place, steps: &[&str]) {
    succeed(&arguments(place, "whole", steps));
}

/// Whether this process was told to ignore SIGHUP, and so what it starts; not known but on Linux.
fn ignores_hang_ups() -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return true };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("signals");
    u64::from_str_radix(ignored.trim(), 16).expect("a set of bits") & 1 == 1
}

#[test]
fn a_signal_saves_everything() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    reference(&place, &LONG);
    for (out, signal, code) in
        [("interrupt", "-INT", 130), ("terminate", "-TERM", 143), ("hang_up", "-HUP", 129)]
    {
        if signal == "-HUP" && ignores_hang_ups() {
            println!("skipped -HUP, which is ignored here, as by nohup");
            continue;
        }
        let html = place.path(&format!("{out}.html"));
        let all = arguments(&place, out, &[&LONG[..], &["--report", &html]].concat());
        let mut child = command(&all).stdout(Stdio::null()).spawn().expect("started");
        let metrics = place.path(out) + "/metrics.jsonl";
        while !fs::metadata(&metrics).is_ok_and(|file| file.len() > 0) {
            sleep(Duration::from_millis(2));
        }
        send(signal, &child);
        assert_eq!(child.wait().expect("an end").code(), Some(code), "{signal}");
        let steps = saved_steps(&place, out);
        assert!((1..400).contains(&steps), "{steps} steps");
        assert_eq!(records(&place.read(&format!("{out}/metrics.jsonl"))).len() as u64, steps);
        assert!(place.read(&format!("{out}/training.svg")).trim_end().ends_with("</svg>"));
        assert!(fs::read_to_string(&html).expect("a page").contains("</html>"));

        succeed(&resumed(&place, out, &["--save-every", "100"]));
        let without_tensors = |records: Vec<Value>| {
            let mut records = records;
            for record in &mut records {
                let fields = record.as_object_mut().expect("an object");
                fields.retain(|name, _| !name.contains('/'));
            }
            records
        };
        let found = records(&place.read(&format!("{out}/metrics.jsonl")));
        let wanted = records(&place.read("whole/metrics.jsonl"));
        assert_eq!(without_tensors(found), wanted, "{signal}");
    }
}

/// The program hangs where it opens a pipe that nobody reads.
#[test]
fn a_second_signal_ends_at_once() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let all = arguments(&place, signal, &["--metrics", &pipe]);
        let mut child = command(&all).spawn().expect("started");
        let weights = place.path(signal) + "/checkpoint.safetensors";
        let begun = Instant::now();
        while !Path::new(&weights).exists() {
            if begun.elapsed() > Duration::from_secs(120) {
                child.kill().expect("killed");
                panic!("the first save was not made");
            }
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(200));
        send(signal, &child);
        sleep(Duration::from_millis(200));
        assert!(child.try_wait().expect("a child").is_none(), "one signal ended it");
        send(signal, &child);
        let begun = Instant::now();
        assert_eq!(child.wait().expect("an end").code(), Some(code));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

/// Killed again and again at random moments, a run comes to the same end. `EVENKEEL_KILLS` says
/// how often, `EVENKEEL_KILL_SEED` makes the moments those of an earlier test.
#[test]
fn a_killed_run_goes_on_bit_by_bit() {
    let Some(_) = support::gpu() else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("EVENKEEL_KILLS").unwrap_or(5);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_nanos();
    let seed = number("EVENKEEL_KILL_SEED").unwrap_or_else(now);
    println!("EVENKEEL_KILL_SEED={seed}");
    let place = Place::new();
    let begun = Instant::now();
    reference(&place, &STEPS);
    // The most that a run is given; about half of them are to be killed.
    let mut most = begun.elapsed();

    // A run that was killed before its first save begins.
    let again = || {
        let is_saved = Path::new(&place.path("out/checkpoint.safetensors")).exists();
        let begin = || arguments(&place, "out", &STEPS);
        command(&if is_saved { resumed(&place, "out", &[]) } else { begin() })
    };
    let (mut killed, mut tries, mut ended) = (0, 0, 0);
    while killed < kills {
        let [word, ..] = threefry4x32([tries, 0, 0, 0], [seed, 0, 0, 0]);
        tries += 1;
        let mut child = again();
        let errors = place.path("errors");
        let child = child.stderr(fs::File::create(&errors).expect("a file")).stdout(Stdio::null());
        let mut child = child.spawn().expect("started");
        sleep(most.mul_f64(uniform_unit(word)));
        child.kill().expect("killed");
        // Without a code where the kill came before the end.
        if let Some(code) = child.wait().expect("an end").code() {
            assert_eq!(code, 0, "seed {seed}, try {tries}: {}", place.read("errors"));
            ended += 1;
            most = most.mul_f64(0.5);
            println!("{killed} kills: the run came to its end");
            check_same(&place, "out", "whole");
            fs::remove_dir_all(place.path("out")).expect("removed");
        } else {
            killed += 1;
            most = most.mul_f64(1.1);
        }
    }
    let output = again().output().expect("started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed}: {error}");
    check_same(&place, "out", "whole");
    println!("{killed} kills, {} whole runs", ended + 1);
}
