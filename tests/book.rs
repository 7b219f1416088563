//! The book and the README: their commands are understood by the programs that they name, and every
//! chapter is a part of the book and of the tests of the documentation. The Rust code of the chapters
//! is compiled by those (src/book.rs), links are followed by `cargo xtask book`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use programs::COMMANDS;

#[path = "support/programs.rs"]
mod programs;

/// The exit code of a command line that is not understood.
const NOT_UNDERSTOOD: i32 = 2;
/// Options that are named in sentences and tables, and are those of other programs, or refused.
const ELSEWHERE: [&str; 5] = [
    "--clear-cache-threshold",
    "--project-name",
    "--release",
    "--report-to",
    "--trust-remote-code",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The chapters, and what they are in the book.
fn chapters() -> Vec<(String, String)> {
    let folder = root().join("docs/book/src");
    let entries = fs::read_dir(folder).expect("the folder of the book");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let is_chapter = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    let chapters = paths.filter(is_chapter).map(|path| (name(&path), read(&path)));
    chapters.filter(|(name, _)| name != "SUMMARY.md").collect()
}

/// Lines of the shell in a text, each with what a `\` joins to it.
fn shell_lines(text: &str) -> Vec<String> {
    let (mut lines, mut line, mut is_shell) = (Vec::new(), String::new(), false);
    for part in text.lines() {
        if let Some(language) = part.trim_start().strip_prefix("```") {
            is_shell = language.trim() == "sh";
            continue;
        }
        if is_shell {
            match part.strip_suffix('\\') {
                Some(begun) => line.push_str(begun),
                None => {
                    line.push_str(part);
                    lines.push(std::mem::take(&mut line));
                }
            }
        }
    }
    lines
}

/// Pieces of code within the sentences and tables of a text.
fn inline_code(text: &str) -> Vec<String> {
    let mut is_block = false;
    let prose = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_block ^= is_fence;
        !is_fence && !is_block
    });
    let prose = prose.collect::<Vec<_>>().join(" ");
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The words of the first command in a line of the shell: up to a comment, pipe, or the next one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in line.chars() {
        match (character, quote) {
            ('\'' | '"', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (_, Some(open)) if character == open => quote = None,
            (' ', None) => words.extend(word.take()),
            ('#' | '|' | '>' | '&' | ';', None) if word.is_none() => break,
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// A command of the program in a text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    chapter: String,
    arguments: Vec<String>,
    /// Whether it is to be typed as it stands; within a sentence it may lack what it needs.
    is_whole: bool,
}

/// Each `evenkeel` in the book and in the README.
fn commands() -> BTreeSet<Named> {
    let mut commands = BTreeSet::new();
    for (chapter, text) in texts() {
        let lines = shell_lines(&text).into_iter().map(|line| (line, true));
        for (line, is_whole) in lines.chain(inline_code(&text).into_iter().map(|c| (c, false))) {
            let words = words(&line);
            if words.first().is_some_and(|word| word == "evenkeel") {
                let (chapter, arguments) = (chapter.clone(), words[1..].to_vec());
                commands.insert(Named { chapter, arguments, is_whole });
            }
        }
    }
    commands
}

/// The chapters and the README.
fn texts() -> Vec<(String, String)> {
    let readme = ("README.md".to_owned(), read(root().join("README.md")));
    chapters().into_iter().chain([readme]).collect()
}

/// Runs a command in an empty folder. Files are missing there, which is said before a device is
/// needed; what is measured is whether the command line was understood. With `asks` it is asked for
/// help, which is given where all before it is understood.
fn run(arguments: &[String], asks: bool) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.current_dir(&folder).args(arguments).args(asks.then_some("--help"));
    command.stdin(Stdio::null()).output().expect("the program runs")
}

#[test]
fn commands_are_understood() {
    let commands = commands();
    let is_named = |name: &str| {
        commands.iter().any(|named| named.arguments.first().is_some_and(|first| first == name))
    };
    for name in ["lora", "train", "generate", "chat", "fuse", "convert", "evaluate", "doctor"] {
        assert!(is_named(name), "{name} is not in the book");
    }
    for Named { chapter, arguments, is_whole } in commands {
        // The doctor has all that it needs, and would take its time.
        let asks = !is_whole || arguments[0] == "doctor";
        let output = run(&arguments, asks);
        let (code, error) = (output.status.code(), String::from_utf8_lossy(&output.stderr));
        let command = arguments.join(" ");
        assert_ne!(code, Some(NOT_UNDERSTOOD), "{chapter}: evenkeel {command}\n{error}");
        // A panic, or what is not written yet.
        assert_ne!(code, Some(101), "{chapter}: evenkeel {command}\n{error}");
    }
}

#[test]
fn options_are_there() {
    let mut known = BTreeSet::new();
    for name in COMMANDS {
        let help = run(&[name.to_owned()], true);
        assert!(help.status.success(), "{name}");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let is_end = |c: char| c.is_whitespace() || ",[]()`".contains(c);
        known.extend(help.split(is_end).filter(|word| word.starts_with("--")).map(str::to_owned));
    }
    assert!(known.contains("--fine-tune-type") && known.contains("--max-tokens"), "{known:?}");
    known.extend(ELSEWHERE.map(str::to_owned));
    for (chapter, text) in chapters() {
        for code in inline_code(&text) {
            let option = code.split([' ', '=']).next().unwrap_or_default();
            let is_option = option.len() > 2 && option.starts_with("--");
            assert!(!is_option || known.contains(option), "{chapter}: {code}");
        }
    }
}

#[test]
fn a_command_that_is_wrong_is_found() {
    let of = |line: &str, asks| run(&words(line), asks).status.code();
    for line in ["lore", "lora --modle a", "lora --fine-tune-type b", "doctor --every"] {
        assert_eq!(of(line, true), Some(NOT_UNDERSTOOD), "{line}");
        assert_eq!(of(line, false), Some(NOT_UNDERSTOOD), "{line}");
    }
    assert_eq!(of("chat", true), Some(0));
    assert_eq!(of("chat", false), Some(NOT_UNDERSTOOD));
    assert_ne!(of("chat --model a", false), Some(NOT_UNDERSTOOD));
}

#[test]
fn commands_are_found_in_texts() {
    let text = "a `evenkeel chat` b\n```sh\nevenkeel lora --model \"a b\" \\\n  --train # c\n\
                cd x && evenkeel y\n```\n```text\nevenkeel no\n```\nc `--d`\n";
    assert_eq!(
        shell_lines(text),
        ["evenkeel lora --model \"a b\"   --train # c", "cd x && evenkeel y"]
    );
    assert_eq!(inline_code(text), ["evenkeel chat", "--d"]);
    assert_eq!(words(&shell_lines(text)[0]), ["evenkeel", "lora", "--model", "a b", "--train"]);
    assert_eq!(words("echo a | evenkeel b"), ["echo", "a"]);
    assert_eq!(words("a --b '' c>d"), ["a", "--b", "", "c>d"]);
}

#[test]
fn examples_and_tasks_that_are_named_are_there() {
    let tasks = read(root().join("xtask/src/main.rs"));
    let is_task = |task: &str| {
        let words = task.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
        let name = words.collect::<String>();
        tasks.lines().any(|line| {
            let variant = line.trim().trim_end_matches([',', '{', ' ']);
            variant.split('(').next() == Some(&name)
        })
    };
    let mut found = 0;
    for (chapter, text) in chapters() {
        for line in shell_lines(&text).into_iter().chain(inline_code(&text)) {
            let words = words(&line);
            if let Some(at) = words.iter().position(|word| word == "--example") {
                let example = root().join("examples").join(&words[at + 1]);
                let is_there = example.is_dir() || example.with_extension("rs").is_file();
                assert!(is_there, "{chapter}: {line}");
                found += 1;
            }
            if let [cargo, xtask, task, ..] = &words[..]
                && (cargo.as_str(), xtask.as_str()) == ("cargo", "xtask")
            {
                assert!(is_task(task), "{chapter}: {line}");
                found += 1;
            }
        }
    }
    assert!(found > 5, "{found}");
    assert!(!is_task("no-task"));
}

#[test]
fn every_chapter_is_in_the_book_and_compiled() {
    let summary = read(root().join("docs/book/src/SUMMARY.md"));
    let compiled = read(root().join("src/book.rs"));
    for (chapter, _) in chapters() {
        assert!(summary.contains(&format!("({chapter})")), "{chapter} is not in SUMMARY.md");
        let path = format!("docs/book/src/{chapter}\"");
        assert!(compiled.contains(&path), "{chapter} is not in src/book.rs");
    }
}
