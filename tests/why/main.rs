//! `evenkeel why` and `evenkeel diff`, as a user runs them, on runs that go wrong on purpose.

use std::fs;
use std::process::Output;

use programs::{Place, check_failure, command, lines};
use serde_json::{Value, json};
use tiny_model::{QUESTIONS, write_model};

mod bits;
mod differ;
#[path = "../support/programs.rs"]
mod programs;
mod refusals;
mod steps;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tiny_model.rs"]
mod tiny_model;
mod unsteady;

const WHY: &str = "evenkeel why";

/// A model, and room for records and runs.
struct Scene {
    place: Place,
    model: String,
    /// Of the device, as saves name it.
    device: String,
}

impl Scene {
    /// `None` where there is no device.
    fn new() -> Option<Self> {
        let gpu = support::gpu()?;
        let place = Place::new();
        let model = write_model(&gpu, &place);
        Some(Self { place, model, device: gpu.info.name.clone() })
    }

    /// Records with the questions and answers in turn, the first in line 1; in the line `other`
    /// stands something else.
    fn write_records(&self, count: usize, other: Option<(usize, &str)>) -> String {
        let line = |index: usize| {
            let [question, answer] = QUESTIONS[index % 2];
            let answer = other.filter(|(line, _)| *line == index + 1).map_or(answer, |one| one.1);
            let message = |role: &str, text: &str| json!({ "role": role, "content": text });
            json!({ "messages": [message("user", question), message("assistant", answer)] })
        };
        let lines: Vec<_> = (0..count).map(|index| line(index).to_string()).collect();
        let folder = self.place.path("data");
        fs::create_dir_all(&folder).expect("a folder");
        self.place.write("data/train.jsonl", lines.join("\n").as_bytes());
        self.place.write("data/valid.jsonl", lines[0].as_bytes());
        folder
    }

    /// A run of `evenkeel lora` in a folder of the place, which is given back.
    #[track_caller]
    fn tune(&self, out: &str, code: i32, more: &[&str]) -> String {
        let out = self.place.path(out);
        let data = self.place.path("data");
        let own = ["--train", "--model", &self.model, "--data", &data, "--adapter-path", &out];
        let output = programs::run("evenkeel lora", &[&own[..], more].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        out
    }

    /// A run whose learning rate is so large in step 20 that step 21 has no finite loss, and that
    /// gives up two steps later.
    fn broken(&self) -> String {
        self.write_records(24, None);
        let config = self.place.write(
            "breaks.yaml",
            b"lr_schedule: {name: step_decay, arguments: [1e-3, 1e24, 20]}\nbatch_size: 2\n\
              save_every: 10\niters: 30\ngive_up_after: 3\nsteps_per_report: 1\n",
        );
        self.tune("out", 5, &["-c", &config])
    }
}

/// What `why` says as JSON, with the exit code that it must have.
#[track_caller]
fn why(code: i32, arguments: &[&str]) -> Value {
    let output = programs::run(WHY, &[arguments, &["--json"]].concat());
    serde_json::from_str(&said(&output, code)).expect("an object")
}

/// Standard output of a program that must have had this exit code.
#[track_caller]
fn said(output: &Output, code: i32) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}{errors}");
    text
}

#[track_caller]
fn refuse(arguments: &[&str], parts: &[&str]) {
    let output = command(WHY, arguments).output().expect("started");
    check_failure(&output, 3, arguments, parts);
}

/// The records of a run.
fn records(out: &str) -> Vec<Value> {
    lines(&fs::read_to_string(format!("{out}/metrics.jsonl")).expect("records"))
}

/// Makes the loss of a step another number of f32, so many further on.
fn alter_loss(out: &str, step: usize, by: u32) {
    let path = format!("{out}/metrics.jsonl");
    let text = fs::read_to_string(&path).expect("records");
    let alter = |(index, line): (usize, &str)| {
        if index != step {
            return line.to_owned();
        }
        let (before, rest) = line.split_once("\"loss\":").expect("a loss");
        let (loss, rest) = rest.split_once(',').expect("more behind it");
        let bits = loss.parse::<f32>().expect("a number").to_bits();
        format!("{before}\"loss\":{},{rest}", f32::from_bits(bits + by))
    };
    let lines: Vec<_> = text.lines().enumerate().map(alter).collect();
    fs::write(path, lines.join("\n") + "\n").expect("written");
}
