//! What a person says: messages of one or several lines, and commands.

use std::io::{self, BufRead, Write, stderr};

use evenkeel::{Error, Result};

/// Around a message of several lines.
const FENCE: &str = "\"\"\"";

/// What was said.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    Message(String),
    Reset,
    Help,
    Unknown(String),
    End,
}

/// Reads what comes next; empty lines are passed over.
pub fn read(lines: &mut impl BufRead, is_prompted: bool) -> Result<Input> {
    loop {
        let Some(line) = next_line(lines, is_prompted, ">>> ")? else { return Ok(Input::End) };
        let line = line.trim();
        let message = match line {
            "" => continue,
            "/reset" => return Ok(Input::Reset),
            "/help" => return Ok(Input::Help),
            "/quit" | "/exit" => return Ok(Input::End),
            FENCE => fenced(lines, is_prompted)?,
            _ if line.starts_with('/') && !line.contains(char::is_whitespace) => {
                return Ok(Input::Unknown(line.to_owned()));
            }
            _ => continued(line, lines, is_prompted)?,
        };
        if !message.trim().is_empty() {
            return Ok(Input::Message(message.trim().to_owned()));
        }
    }
}

/// All lines up to the next fence.
fn fenced(lines: &mut impl BufRead, is_prompted: bool) -> Result<String> {
    let mut message = String::new();
    while let Some(line) = next_line(lines, is_prompted, "... ")? {
        if line.trim() == FENCE {
            break;
        }
        message.push_str(&line);
        message.push('\n');
    }
    Ok(message)
}

/// A line, and those that a backslash at its end joins to it.
fn continued(first: &str, lines: &mut impl BufRead, is_prompted: bool) -> Result<String> {
    let (mut message, mut line) = (String::new(), first.to_owned());
    while let Some(part) = line.strip_suffix('\\') {
        message.push_str(part);
        message.push('\n');
        match next_line(lines, is_prompted, "... ")? {
            Some(next) => next.trim_end().clone_into(&mut line),
            None => line.clear(),
        }
    }
    Ok(message + &line)
}

fn next_line(lines: &mut impl BufRead, is_prompted: bool, prompt: &str) -> Result<Option<String>> {
    if is_prompted {
        let mut out = stderr();
        drop(write!(out, "{prompt}").and_then(|()| out.flush()));
    }
    let mut line = String::new();
    let read = lines.read_line(&mut line).map_err(|error: io::Error| Error::File {
        path: "standard input".into(),
        reason: format!("cannot be read: {error}"),
    })?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok((read > 0).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Input> {
        let mut lines = text.as_bytes();
        let mut inputs = Vec::new();
        loop {
            match read(&mut lines, false).expect("a text") {
                Input::End => return inputs,
                input => inputs.push(input),
            }
        }
    }

    fn message(text: &str) -> Input {
        Input::Message(text.to_owned())
    }

    #[test]
    fn messages_have_one_line_or_several() {
        let said = "one\r\n\n  \ntwo \\\nthree\\\n\n\"\"\"\na\n\n  b\n\"\"\"\n/reset\nlast";
        let expected = [
            message("one"),
            message("two \nthree"),
            message("a\n\n  b"),
            Input::Reset,
            message("last"),
        ];
        assert_eq!(all(said), expected);
    }

    #[test]
    fn commands_stand_alone() {
        let expected =
            [Input::Help, Input::Unknown("/what".into()), message("/reset all"), message("x")];
        assert_eq!(all("/help\n/what\n/reset all\nx\n/quit\nnever"), expected);
        // What is not closed ends with the input.
        assert_eq!(all("\"\"\"\nopen"), [message("open")]);
        assert_eq!(all("open\\"), [message("open")]);
    }
}
