//! `evenkeel completions`, and what the program says of its commands.

use crate::programs::{COMMANDS, run, succeed};
use crate::refuse_usage;

#[test]
fn shells_know_all_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeed("evenkeel completions", &[shell]);
        for part in COMMANDS.into_iter().chain(["adapter-path", "save-path", "bits per byte"]) {
            // Bash has no descriptions.
            if part.contains(' ') && shell == "bash" {
                continue;
            }
            assert!(script.contains(part), "{part:?} is missing for {shell}");
        }
    }
    refuse_usage("evenkeel completions", &["csh"]);
    refuse_usage("evenkeel completions", &[]);
}

#[test]
fn help_lists_all_commands() {
    let text = succeed("evenkeel help", &[]);
    for command in COMMANDS {
        let is_listed = |line: &str| line.trim_start().starts_with(&format!("{command} "));
        assert!(text.lines().any(is_listed), "{command} is missing in {text}");
        let own = succeed("evenkeel help", &[command]);
        assert!(own.contains(&format!("Usage: evenkeel {command}")), "{own}");
    }
    assert_eq!(run("evenkeel nothing", &[]).status.code(), Some(2));
}
