//! The program `evenkeel` and the examples, run as a user runs them.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// The commands of the program `evenkeel`.
pub const COMMANDS: [&str; 13] = [
    "lora",
    "train",
    "generate",
    "chat",
    "fuse",
    "convert",
    "evaluate",
    "inspect",
    "doctor",
    "report",
    "why",
    "diff",
    "completions",
];

/// The folder of the example programs, which are built first: cargo does so by itself only where
/// it was not asked for single tests.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("a path");
        let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
        let name = profile.file_name().expect("a profile").to_str().expect("UTF-8");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args(["build", "--quiet", "--examples", "--profile"]);
        cargo.arg(if name == "debug" { "dev" } else { name });
        // The same as those of the test, so that nothing is built twice.
        let features = [
            ("contract", cfg!(feature = "contract")),
            ("dashboard", cfg!(feature = "dashboard")),
            ("cli", cfg!(feature = "cli")),
            ("mpi", cfg!(feature = "mpi")),
        ];
        for (feature, _) in features.into_iter().filter(|(_, enabled)| *enabled) {
            cargo.args(["--features", feature]);
        }
        assert!(cargo.status().expect("cargo runs").success(), "the examples do not build");
        profile.join("examples")
    })
}

/// An example program with arguments, not started yet; one named `evenkeel lora` is that command of
/// the program `evenkeel`, for tests that need the feature `cli`.
pub fn command<S: AsRef<OsStr>>(example: &str, arguments: &[S]) -> Command {
    let mut command = match example.split_once(' ') {
        Some(("evenkeel", name)) => {
            let program = option_env!("CARGO_BIN_EXE_evenkeel");
            let mut command = Command::new(program.expect("built with the feature cli"));
            command.arg(name);
            command
        }
        _ => Command::new(folder().join(format!("{example}{}", std::env::consts::EXE_SUFFIX))),
    };
    // Mesa complains on the error output where this is not set.
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or(std::env::temp_dir().into());
    command.args(arguments).env("XDG_RUNTIME_DIR", runtime);
    command
}

pub fn run(example: &str, arguments: &[&str]) -> Output {
    command(example, arguments).output().expect("the example starts")
}

/// Standard output of a run that must succeed.
#[track_caller]
pub fn succeed(example: &str, arguments: &[&str]) -> String {
    let output = run(example, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example} {arguments:?}: {}\n{text}{errors}", output.status);
    text
}

/// A run that finds no driver.
pub fn without_adapter(example: &str, place: &Place, arguments: &[&str]) -> Output {
    let nowhere = place.path("no_driver.json");
    command(example, arguments)
        .env("WGPU_BACKEND", "vulkan")
        .env("VK_DRIVER_FILES", &nowhere)
        .env("VK_ICD_FILENAMES", &nowhere)
        .env("VK_LOADER_DRIVERS_DISABLE", "*")
        .env_remove("WGPU_ADAPTER_NAME")
        .output()
        .expect("the program starts")
}

/// An example that must have failed with exit code 1 and one line that holds all of `parts`.
#[track_caller]
pub fn check_refusal(output: &Output, arguments: &[&str], parts: &[&str]) {
    check_failure(output, 1, arguments, parts);
}

/// A run that must have failed with this exit code and one line that holds all of `parts`.
#[track_caller]
pub fn check_failure(output: &Output, code: i32, arguments: &[&str], parts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
    for part in parts {
        assert!(error.contains(part), "{arguments:?} gives {error:?} without {part:?}");
    }
}

/// A GPT so small that a step takes milliseconds.
pub const SMALL: [&str; 12] = [
    "--layers",
    "1",
    "--heads",
    "2",
    "--width",
    "16",
    "--context",
    "16",
    "--batch",
    "4",
    "--seed",
    "3",
];

/// A folder, and in it a text that is quickly learned.
pub struct Place {
    pub folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let line = "the keel keeps the boat even; the boat keeps the keel wet.\n";
        fs::write(folder.path().join("text.txt"), line.repeat(40)).expect("written");
        Self { folder }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn write(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.path(name), content).expect("written");
        self.path(name)
    }

    pub fn set_read_only(&self, name: &str, is_read_only: bool) {
        let mut permissions = fs::metadata(self.path(name)).expect("there").permissions();
        #[allow(
            clippy::permissions_set_readonly_false,
            reason = "the folder can be removed again"
        )]
        permissions.set_readonly(is_read_only);
        fs::set_permissions(self.path(name), permissions).expect("set");
    }

    /// Arguments of a small `evenkeel train` in the folder `out`, over the text or another one. What
    /// `more` gives stands in the place of that.
    pub fn arguments(&self, text: Option<&str>, more: &[&str]) -> Vec<String> {
        let (out, own_text) = (self.path("out"), self.path("text.txt"));
        let own = ["--out", &out, "--data", text.unwrap_or(&own_text)];
        let pairs = own.chunks(2).chain(SMALL.chunks(2));
        let rest = pairs.filter(|pair| !more.contains(&pair[0])).flatten();
        rest.chain(more).map(|argument| (*argument).to_owned()).collect()
    }
}

pub fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

pub fn lines(metrics: &str) -> Vec<Value> {
    metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub fn loss(line: &Value) -> f64 {
    line["loss"].as_f64().expect("a number")
}
