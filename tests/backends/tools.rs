//! The compilers, and what they say of many files.
//!
//! `cargo xtask test --all-backends` brings them and sets `EVENKEEL_REQUIRE_BACKENDS`, which makes a
//! missing one a failure. Without it the test says that it skips.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::slice;

/// What a compiler said of each file, by name.
pub type Verdicts = BTreeMap<String, Result<(), String>>;

/// A compiler, ready to be started.
pub enum Tool {
    /// Files as arguments; nothing but the exit status counts. Where it takes many, all go to one
    /// process, and one by one only where it rejects some.
    Arguments { program: PathBuf, arguments: Vec<String>, takes_many: bool },
    /// One process for all files, which reads the list in a file of its own and answers with lines:
    /// `ok NAME` or `error NAME`, messages after a tab.
    List { program: PathBuf, arguments: Vec<PathBuf>, environment: Vec<(&'static str, PathBuf)> },
}

/// `spirv-val` of SPIRV-Tools.
pub fn spirv_val(target: &str) -> Option<Tool> {
    let program = required("spirv-val", program("spirv-val"))?;
    let arguments = vec!["--target-env".into(), target.into()];
    Some(Tool::Arguments { program, arguments, takes_many: false })
}

/// The same where it is new enough to know cooperative matrices, which Debian 12's is not.
pub fn spirv_val_of_matrices(target: &str) -> Option<Tool> {
    let tool = spirv_val(target)?;
    let Tool::Arguments { program, .. } = &tool else { return None };
    let output = Command::new(program).arg("--version").output().expect("it was found");
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = version.lines().next().unwrap_or_default();
    let year = first.split_once(" v").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
    if year.is_some_and(|year: u32| year >= 2024) {
        return Some(tool);
    }
    let mut output = std::io::stdout().lock();
    writeln!(output, "\nskipped: {first} does not know cooperative matrices")
        .expect("standard output");
    None
}

/// `glslangValidator` of glslang.
pub fn glslang() -> Option<Tool> {
    let program = required("glslangValidator", program("glslangValidator"))?;
    let arguments = vec!["-S".into(), "comp".into()];
    Some(Tool::Arguments { program, arguments, takes_many: true })
}

/// Tint, through Dawn's null device.
pub fn tint() -> Option<Tool> {
    let npm = Path::new(env!("CARGO_MANIFEST_DIR")).join("xtask/npm");
    let script = npm.join("tint.mjs");
    let here = npm.join("node_modules/webgpu").exists();
    let program = required("Tint", program("node").filter(|_| here))?;
    Some(Tool::List { program, arguments: vec![script], environment: Vec::new() })
}

/// DXC and FXC: their libraries behind a small program, under Wine where this is not Windows.
pub fn hlsl() -> Option<Tool> {
    let compiler = Some(folder().join("hlslc.exe")).filter(|file| file.exists());
    if cfg!(windows) {
        let program = required("hlslc.exe", compiler)?;
        return Some(Tool::List { program, arguments: Vec::new(), environment: Vec::new() });
    }
    let usual = Some(PathBuf::from("/usr/lib/wine/wine64")).filter(|file| file.exists());
    let wine = program("wine64").or(usual).or_else(|| program("wine"));
    let (program, compiler) = required("DXC and FXC under Wine", wine.zip(compiler))?;
    let environment = vec![
        ("WINEPREFIX", folder().join("wine")),
        ("WINEDEBUG", "-all".into()),
        // Microsoft's compiler, not Wine's; nothing that Wine would ask to install.
        ("WINEDLLOVERRIDES", "d3dcompiler_47=n;mscoree=;mshtml=".into()),
    ];
    Some(Tool::List { program, arguments: vec![compiler], environment })
}

impl Tool {
    /// Has every file compiled. `list` names them, a line each, for [`Tool::List`].
    pub fn run(&self, folder: &Path, names: &[String], list: &str) -> Verdicts {
        match self {
            Self::Arguments { program, arguments, takes_many } => {
                let check = |names: &[String]| {
                    let mut command = Command::new(program);
                    command.args(arguments).args(names).current_dir(folder).stdin(Stdio::null());
                    let output = command.output().expect("the compiler starts");
                    let text = [output.stdout, output.stderr].concat();
                    let text = String::from_utf8_lossy(&text).trim().to_owned();
                    if output.status.success() { Ok(()) } else { Err(text) }
                };
                let all_pass = *takes_many && check(names).is_ok();
                let verdict = |name: &String| {
                    let verdict = if all_pass { Ok(()) } else { check(slice::from_ref(name)) };
                    (name.clone(), verdict)
                };
                names.iter().map(verdict).collect()
            }
            Self::List { program, arguments, environment } => {
                let file = folder.join("list.txt");
                fs::write(&file, list).expect("a list beside the files");
                let mut command = Command::new(program);
                command.args(arguments).arg("list.txt").envs(environment.iter().cloned());
                command.current_dir(folder).stdin(Stdio::null());
                // Files and no pipes: Wine's servers would hold a pipe open for long after the end.
                let [answers, errors] = ["answers.txt", "errors.txt"].map(|name| folder.join(name));
                let create = |file| File::create(file).expect("a file beside the others");
                command.stdout(create(&answers)).stderr(create(&errors));
                let status = command.status().expect("the compiler starts");
                let read = |file| {
                    String::from_utf8_lossy(&fs::read(file).expect("just written")).into_owned()
                };
                let mut verdicts = parse(&read(&answers));
                let errors = read(&errors);
                for name in names {
                    let silent = || Err(format!("no answer; {status}: {errors}"));
                    verdicts.entry(name.clone()).or_insert_with(silent);
                }
                verdicts
            }
        }
    }
}

fn parse(text: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    let mut current = String::new();
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        if let Some(name) = line.strip_prefix("ok ") {
            verdicts.insert(name.to_owned(), Ok(()));
        } else if let Some(name) = line.strip_prefix("error ") {
            verdicts.insert(name.to_owned(), Err(String::new()));
            current = name.to_owned();
        } else if let (Some(message), Some(Err(so_far))) =
            (line.strip_prefix('\t'), verdicts.get_mut(&current))
        {
            so_far.push_str(message);
            so_far.push('\n');
        }
    }
    verdicts
}

/// Where `cargo xtask test --all-backends` puts what no package manager brings.
fn folder() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().expect("target").join("backends")
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&path).map(|folder| folder.join(&file)).find(|file| file.is_file())
}

fn required<T>(what: &str, found: Option<T>) -> Option<T> {
    if found.is_none() {
        let way = "`cargo xtask test --all-backends` brings it";
        if std::env::var_os("EVENKEEL_REQUIRE_BACKENDS").is_some() {
            panic!("{what} is not here: {way}");
        }
        // Past the test harness, which hides what passing tests print.
        let mut output = std::io::stdout().lock();
        writeln!(output, "\nskipped: {what} is not here: {way}").expect("standard output");
    }
    found
}
