//! A file of text, some of it at a time.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::decode::with_unix_lines;
use super::lines::{Lines, TextEncoding};
use super::read::{LARGEST, unreadable};
use crate::error::Result;

/// Parts are about as long, in bytes, where a line begins with a word.
const PART: usize = 1 << 20;
/// Behind so many bytes any line will do.
const LONGEST: usize = 1 << 26;

/// A part of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) contents: Vec<u8>,
    /// The line that it begins with, counted from 1.
    pub(super) line: usize,
    pub(super) is_first: bool,
    pub(super) is_last: bool,
}

/// What is wrong with a text, and the line, if it is not the whole.
pub(super) struct Damage {
    pub(super) reason: String,
    pub(super) line: Option<usize>,
}

/// Parts, or what ends them.
pub(super) type Found = Result<Option<std::result::Result<Part, Damage>>>;

/// A text in parts that begin lines, where patterns of tokenizers end a word anyway. Lines end in
/// `\n`, as [`decode`](super::decode) has it.
pub(super) struct TextParts {
    lines: Lines<File>,
    /// What was read and is no part yet, and where it begins.
    text: String,
    begin: usize,
    /// Lines that were read.
    line: usize,
    given: usize,
    damage: Option<Damage>,
    part: usize,
}

impl TextParts {
    pub(super) fn open(path: &Path, encoding: TextEncoding) -> Result<Self> {
        let open = || Lines::new(File::open(path)?, encoding, LARGEST as usize);
        let lines = open().map_err(|error| unreadable(path, &error))?;
        let (text, damage) = (String::new(), None);
        Ok(Self { lines, text, begin: 1, line: 0, given: 0, damage, part: PART })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lines.bytes()
    }

    /// The next part. Of a text that is damaged within its first part there is none; otherwise what
    /// stands before the damaged line is.
    pub(super) fn next(&mut self, path: &Path) -> Found {
        loop {
            if let Some(damage) = self.damage.take() {
                return Ok(Some(Err(damage)));
            }
            let line = self.lines.next().map_err(|error| unreadable(path, &error))?;
            self.line += usize::from(line.is_some());
            match line {
                Some(Ok(line)) => {
                    let mut line = with_unix_lines(line);
                    if self.lines.is_ended() {
                        line.push('\n');
                    }
                    if self.is_cut_before(&line) {
                        let text = std::mem::replace(&mut self.text, line);
                        return Ok(Some(Ok(self.part_of(text, false))));
                    }
                    self.text.push_str(&line);
                }
                Some(Err(reason)) => {
                    self.damage = Some(Damage { reason, line: Some(self.line) });
                    let text = std::mem::take(&mut self.text);
                    if self.given > 0 {
                        return Ok(Some(Ok(self.part_of(text, true))));
                    }
                }
                None => {
                    let text = std::mem::take(&mut self.text);
                    let is_blank = text.bytes().all(|byte| byte.is_ascii_whitespace());
                    return Ok(match (self.given, is_blank) {
                        (0, true) => Some(Err(self.blank())),
                        (_, true) if text.is_empty() => None,
                        _ => Some(Ok(self.part_of(text, true))),
                    });
                }
            }
        }
    }

    fn is_cut_before(&self, line: &str) -> bool {
        let is_word = line.starts_with(|first: char| first.is_ascii_alphanumeric());
        self.text.len() > if is_word { self.part } else { LONGEST }
    }

    fn part_of(&mut self, text: String, is_last: bool) -> Part {
        let (line, is_first) = (self.begin, self.given == 0);
        self.begin += text.matches('\n').count();
        self.given += 1;
        Part { contents: text.into_bytes(), line, is_first, is_last }
    }

    fn blank(&mut self) -> Damage {
        // It is said once.
        self.given = 1;
        blank()
    }
}

fn blank() -> Damage {
    let reason = "the text is empty; give one with something to learn from".to_owned();
    Damage { reason, line: None }
}

/// A file as it is, in parts.
pub(super) struct RawParts {
    file: File,
    /// What comes next.
    ahead: Vec<u8>,
    line: usize,
    given: usize,
    bytes: u64,
}

impl RawParts {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        let mut parts = Self { file, ahead: Vec::new(), line: 1, given: 0, bytes: 0 };
        parts.read(path)?;
        Ok(parts)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was ahead, with the next behind it.
    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        let mut ahead = Vec::new();
        let read = self.file.by_ref().take(PART as u64).read_to_end(&mut ahead);
        self.bytes += read.map_err(|error| unreadable(path, &error))? as u64;
        Ok(std::mem::replace(&mut self.ahead, ahead))
    }

    pub(super) fn next(&mut self, path: &Path) -> Found {
        let contents = self.read(path)?;
        if contents.is_empty() {
            let is_blank = self.given == 0;
            self.given = 1;
            return Ok(is_blank.then(|| Err(blank())));
        }
        let (line, is_first, is_last) = (self.line, self.given == 0, self.ahead.is_empty());
        self.line += contents.iter().filter(|&&byte| byte == b'\n').count();
        self.given += 1;
        Ok(Some(Ok(Part { contents, line, is_first, is_last })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts of about `size` bytes, and what ended them.
    fn parts(contents: &[u8], size: usize) -> (Vec<Part>, Option<Damage>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text.txt");
        std::fs::write(&path, contents).expect("written");
        let mut reader = TextParts::open(&path, TextEncoding::default()).expect("a file");
        reader.part = size;
        let (mut found, mut damage) = (Vec::new(), None);
        while let Some(next) = reader.next(&path).expect("read") {
            match next {
                Ok(part) => found.push(part),
                Err(what) => damage = Some(what),
            }
        }
        assert_eq!(reader.bytes(), contents.len() as u64);
        (found, damage)
    }

    fn text(parts: &[Part]) -> String {
        let all: Vec<u8> = parts.iter().flat_map(|part| part.contents.clone()).collect();
        String::from_utf8(all).expect("UTF-8")
    }

    #[test]
    fn parts_are_the_whole_and_begin_lines() {
        let lines: String = (0..200)
            .map(|n| format!("{}line {n}\r\n", if n % 3 == 0 { " " } else { "" }))
            .collect();
        for ending in ["", "\r", "the end", "\n\n"] {
            let whole = format!("\u{feff}{lines}{ending}");
            let expected = super::super::decode("text", whole.as_bytes()).expect("a text");
            for size in [10, 100, 1 << 20] {
                let (parts, damage) = parts(whole.as_bytes(), size);
                assert!(damage.is_none());
                assert_eq!(text(&parts), expected, "{size}");
                for (at, part) in parts.iter().enumerate() {
                    assert_eq!((part.is_first, part.is_last), (at == 0, at + 1 == parts.len()));
                    let before = text(&parts[..at]);
                    assert_eq!(part.line, 1 + before.matches('\n').count());
                    assert!(
                        at == 0 || part.contents.starts_with(b"l") || part.contents == b"the end"
                    );
                }
                assert_eq!(parts.len() > 1, size < 1 << 20, "{}", parts.len());
            }
        }
    }

    #[test]
    fn damage_is_placed_and_leaves_what_stands_before() {
        let good = "a line\n".repeat(4);
        let damaged = [good.as_bytes(), b"caf\xe9\n", good.as_bytes()].concat();
        let (whole, damage) = parts_until_damage(&damaged, 1 << 20);
        assert_eq!((whole.len(), damage.line), (0, Some(5)));
        assert!(damage.reason.contains("byte 0xE9 at byte 3 of the line"), "{}", damage.reason);
        let (before, damage) = parts_until_damage(&damaged, 8);
        assert_eq!((text(&before), damage.line), (good, Some(5)));
        assert!(before.last().is_some_and(|part| part.is_last));
        for blank in [&b""[..], b" \n\t\r\n", b"\xef\xbb\xbf"] {
            let (found, damage) = parts(blank, 1);
            assert!(found.is_empty());
            assert!(damage.expect("nothing").reason.starts_with("the text is empty"));
        }
    }

    /// As whoever takes parts does: nothing behind the damage.
    fn parts_until_damage(contents: &[u8], size: usize) -> (Vec<Part>, Damage) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text.txt");
        std::fs::write(&path, contents).expect("written");
        let mut reader = TextParts::open(&path, TextEncoding::default()).expect("a file");
        reader.part = size;
        let mut found = Vec::new();
        loop {
            match reader.next(&path).expect("read").expect("damage comes before the end") {
                Ok(part) => found.push(part),
                Err(damage) => return (found, damage),
            }
        }
    }

    #[test]
    fn raw_files_are_as_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("raw.bin");
        let contents: Vec<u8> = (0..2 * PART + 5).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &contents).expect("written");
        let mut parts = RawParts::open(&path).expect("a file");
        let mut all = Vec::new();
        while let Some(Ok(part)) = parts.next(&path).expect("read") {
            let newlines = all.iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!((part.line, part.is_first), (1 + newlines, all.is_empty()));
            all.extend(part.contents);
            assert_eq!(part.is_last, all.len() == contents.len());
        }
        assert!(all == contents && parts.bytes() == contents.len() as u64);
    }
}
