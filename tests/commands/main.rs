//! The smaller commands of the program `evenkeel`, as a user runs them, on a model made here.

mod chat;
mod convert;
mod doctor;
mod evaluate;
mod fuse;
mod generate;
mod inspect;
mod models;
#[path = "../support/programs.rs"]
mod programs;
mod report;
mod shells;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny_model.rs"]
mod tiny_model;

use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use programs::{check_failure, run};

/// A command that must fail with exit code 3 and one line that holds all of `parts`.
#[track_caller]
fn refuse(name: &str, arguments: &[&str], parts: &[&str]) {
    check_failure(&run(name, arguments), 3, arguments, parts);
}

/// Arguments that are refused as such.
#[track_caller]
fn refuse_usage(name: &str, arguments: &[&str]) {
    let output = run(name, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{name} {arguments:?}: {errors}");
}

fn send(signal: &str, child: &Child) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(status.expect("kill").success());
}

/// Waits until a program listens for SIGINT, which only Linux says.
fn wait_until_it_listens(child: &mut Child) {
    let (path, begun) = (format!("/proc/{}/status", child.id()), Instant::now());
    let listens = || {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask & 2 != 0)
    };
    assert!(Path::new("/proc/self/status").exists());
    while !listens() {
        if begun.elapsed() > Duration::from_secs(120) {
            child.kill().expect("killed");
            panic!("it does not listen for signals");
        }
        sleep(Duration::from_millis(5));
    }
}
