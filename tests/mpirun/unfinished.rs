//! Runs on several ranks that are stopped and killed, and go on on fewer.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::programs::Place;
use crate::{arguments, check_same, is_there, mpirun, records, succeed_on, support};

fn start(arguments: &[String]) -> Child {
    let mut command = mpirun(4);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started")
}

/// Waits until a run has a file.
pub fn wait_for(path: &str, child: &mut Child) {
    let begun = Instant::now();
    while !Path::new(path).exists() {
        assert!(child.try_wait().expect("a child").is_none(), "the run has ended by itself");
        assert!(begun.elapsed() < Duration::from_secs(300), "{path} is not there");
        sleep(Duration::from_millis(2));
    }
}

/// Waits until rank 0 has left its folder: `mpirun` does not wait for those that it ends.
fn wait_for_the_folder(place: &Place) {
    let begun = Instant::now();
    let lock = std::fs::File::open(place.path("out/.lock")).expect("the lock of the run");
    while lock.try_lock().is_err() {
        assert!(begun.elapsed() < Duration::from_secs(300), "the folder is not free");
        sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to a rank, whose log has its process.
pub fn signal(place: &Place, rank: usize, signal: &str) {
    let log = place.read(&format!("out/log.rank-{rank}.txt"));
    let last = log.rsplit("process ").next().expect("a process");
    let process = last.split_whitespace().next().expect("a number");
    let sent = Command::new("kill").args([signal, process]).status();
    assert!(sent.expect("kill").success());
}

#[test]
fn a_run_of_four_ranks_goes_on_on_one_bit_by_bit() {
    let Some(_) = support::gpu() else { return };
    let place = Place::new();
    let more = ["--steps", "60", "--save-every", "4", "--report-every", "5", "--sample", "0"];
    let parts = ["--family", "llama", "--evaluate-every", "20", "--dropout", "0.1", "--batch", "2"];
    let more = [&more[..], &parts, &["--accumulation", "4", "--keep", "100"]].concat();
    succeed_on(1, &arguments(&place, "whole", &more));
    let save = |step: u32| place.path(&format!("out/checkpoints/step-{step:08}.safetensors"));
    let resume = ["train".to_owned(), "--resume".to_owned(), place.path("out")];

    // One rank is asked to stop, and all do.
    let mut child = start(&arguments(&place, "out", &more));
    wait_for(&save(4), &mut child);
    signal(&place, 2, "-INT");
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    assert!(!is_there(&place, "out/model"));
    let steps = records(&place, "out").len();
    assert!((4..60).contains(&steps), "{steps}");
    for rank in 1..4 {
        let log = place.read(&format!("out/log.rank-{rank}.txt"));
        assert!(log.ends_with(&format!("ended after {steps} steps\n")), "{log}");
    }

    // It goes on, and a rank is killed.
    let mut child = start(&resume);
    wait_for(&save(32), &mut child);
    signal(&place, 1, "-KILL");
    assert!(!child.wait().expect("an end").success());

    wait_for_the_folder(&place);
    let text = succeed_on(1, &resume);
    assert!(text.contains("resumed  at step ") && !text.contains("changed "), "{text}");
    check_same(&place, "out", "whole");
}
