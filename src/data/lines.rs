//! Lines of a file, one by one, whatever its encoding and however long it is.

use std::io::{BufRead, BufReader, Chain, Cursor, Read, Result as IoResult};

use encoding_rs::Encoding as Table;

use super::decode::{Encoding, Fault, MARKS, unmarked, utf16, utf32};
use crate::error::{Error, Result};

/// Bytes that are read at once of a line.
const PIECE: u64 = 1 << 16;

/// How the characters of a file are encoded.
///
/// By default that is what its byte-order mark says (UTF-8, UTF-16 or UTF-32), and UTF-8 without
/// one. [`named`](Self::named) is for files of another encoding, which nothing in them tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextEncoding(Option<&'static Table>);

impl TextEncoding {
    /// The encoding with a name of the [Encoding Standard](https://encoding.spec.whatwg.org/):
    /// `latin1` and `windows-1252` (the same there), `utf-16le`, `shift_jis`, `gbk`, and so on. A
    /// byte-order mark comes first all the same.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is not known, and for encodings in which the end of a
    /// line cannot be told.
    pub fn named(name: &str) -> Result<Self> {
        let unsupported = |instead: &str| {
            let what = format!("the encoding {name:?}");
            Err(Error::Unsupported { what, instead: instead.to_owned() })
        };
        match Table::for_label(name.trim().as_bytes()) {
            None => unsupported(
                "use a name of the Encoding Standard, such as windows-1252 (for Latin-1), \
                 utf-16le or shift_jis, or save the file as UTF-8",
            ),
            Some(table) if is_wide(table) || table.is_ascii_compatible() => Ok(Self(Some(table))),
            Some(_) => unsupported("save the file as UTF-8"),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.0.map_or("UTF-8, or what a byte-order mark says", Table::name)
    }
}

fn is_wide(table: &'static Table) -> bool {
    table == encoding_rs::UTF_16LE || table == encoding_rs::UTF_16BE
}

/// How the bytes of a line become characters.
#[derive(Clone, Copy)]
enum Coding {
    Marked(Encoding),
    Table(&'static Table),
}

impl Coding {
    /// The encoding of a file that begins so, and how many bytes of that are its mark.
    fn of(beginning: &[u8], encoding: TextEncoding) -> (Self, usize) {
        if let Some((mark, marked)) =
            MARKS.into_iter().find(|(mark, _)| beginning.starts_with(mark))
        {
            return (Self::Marked(marked), mark.len());
        }
        let coding = match encoding.0 {
            None => Self::Marked(Encoding::Utf8),
            Some(table) if table == encoding_rs::UTF_8 => Self::Marked(Encoding::Utf8),
            Some(table) if table == encoding_rs::UTF_16LE => {
                Self::Marked(Encoding::Utf16(u16::from_le_bytes))
            }
            Some(table) if table == encoding_rs::UTF_16BE => {
                Self::Marked(Encoding::Utf16(u16::from_be_bytes))
            }
            Some(table) => Self::Table(table),
        };
        (coding, 0)
    }

    /// The bytes that end a line.
    fn newline(self) -> Vec<u8> {
        let wide = |width: usize, is_little: bool| {
            let mut newline = vec![0; width];
            newline[if is_little { 0 } else { width - 1 }] = b'\n';
            newline
        };
        match self {
            Self::Marked(Encoding::Utf16(word)) => wide(2, word([1, 0]) == 1),
            Self::Marked(Encoding::Utf32(word)) => wide(4, word([1, 0, 0, 0]) == 1),
            Self::Marked(Encoding::Utf8) | Self::Table(_) => vec![b'\n'],
        }
    }

    fn decode(self, line: Vec<u8>) -> Result<String, String> {
        let placed = |Fault { offset, what, .. }: Fault| {
            what.replacen('@', &format!("at byte {offset} of the line"), 1)
        };
        match self {
            Self::Marked(Encoding::Utf8) => utf8(line),
            Self::Marked(Encoding::Utf16(word)) => utf16(&line, word).map_err(placed),
            Self::Marked(Encoding::Utf32(word)) => utf32(&line, word).map_err(placed),
            Self::Table(table) => table
                .decode_without_bom_handling_and_without_replacement(&line)
                .map(std::borrow::Cow::into_owned)
                .ok_or_else(|| format!("it is not all {}; say which encoding it is", table.name())),
        }
    }
}

fn utf8(line: Vec<u8>) -> Result<String, String> {
    const WAY_OUT: &str = "name the file's encoding (windows-1252 for Latin-1, utf-16le for UTF-16 \
                           without a byte-order mark), or save it as UTF-8";
    if let Some(found) = unmarked(&line) {
        return Err(format!("{found}; {WAY_OUT}"));
    }
    String::from_utf8(line).map_err(|error| {
        let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
        let (byte, line_place) = (bytes[at], format!("at byte {at} of the line"));
        format!("byte 0x{byte:02X} {line_place} is no UTF-8; {WAY_OUT}")
    })
}

/// Lines of a file.
pub(super) struct Lines<R> {
    reader: BufReader<Chain<Cursor<Vec<u8>>, R>>,
    coding: Coding,
    newline: Vec<u8>,
    longest: usize,
    bytes: u64,
    is_ended: bool,
}

impl<R: Read> Lines<R> {
    /// Looks for the mark. Lines of more than `longest` bytes are faults.
    pub(super) fn new(mut reader: R, encoding: TextEncoding, longest: usize) -> IoResult<Self> {
        let mut beginning = Vec::new();
        reader.by_ref().take(4).read_to_end(&mut beginning)?;
        let (coding, mark) = Coding::of(&beginning, encoding);
        beginning.drain(..mark);
        let reader = BufReader::with_capacity(PIECE as usize, Cursor::new(beginning).chain(reader));
        let (newline, bytes) = (coding.newline(), mark as u64);
        Ok(Self { reader, coding, newline, longest, bytes, is_ended: false })
    }

    /// Bytes that were read.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the last line had an end of its own, and not that of the file.
    #[cfg(feature = "run")]
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// The next line without its end, or what is wrong with it; None behind the last.
    pub(super) fn next(&mut self) -> IoResult<Option<Result<String, String>>> {
        let Some(line) = self.next_bytes()? else { return Ok(None) };
        let is_ended = self.is_ended;
        Ok(Some(line.and_then(|line| self.coding.decode(line)).map(|mut line| {
            if is_ended && line.ends_with('\r') {
                line.pop();
            }
            line
        })))
    }

    fn next_bytes(&mut self) -> IoResult<Option<Result<Vec<u8>, String>>> {
        let width = self.newline.len();
        let (mut line, mut length, mut is_too_long) = (Vec::new(), 0, false);
        loop {
            let read = self.read_piece(&mut line, length % width)?;
            length += read;
            let ends = read > 0 && length % width == 0 && line.ends_with(&self.newline);
            self.is_ended = ends;
            if ends {
                line.truncate(line.len() - width);
                length -= width;
            }
            // A character that has only begun may be the end of the line.
            let begun = length % width;
            is_too_long |= line.len() - begun > self.longest;
            if read == 0 && length == 0 {
                return Ok(None);
            }
            if read == 0 || ends {
                let longest = self.longest;
                let fault = || format!("it has {length} bytes, more than the limit of {longest}");
                return Ok(Some(if is_too_long { Err(fault()) } else { Ok(line) }));
            }
            if is_too_long {
                line.drain(..line.len() - begun);
            }
        }
    }

    /// Bytes to the next one that may belong to the end of a line, or to the end of a piece; `begun`
    /// are those of a character that are there already.
    fn read_piece(&mut self, line: &mut Vec<u8>, begun: usize) -> IoResult<usize> {
        let width = self.newline.len();
        let mut read = self.reader.by_ref().take(PIECE).read_until(b'\n', line)?;
        let is_first_byte = (begun + read) % width == 1 % width;
        if width > 1 && self.newline[0] == b'\n' && is_first_byte && line.ends_with(b"\n") {
            read += self.reader.by_ref().take(width as u64 - 1).read_to_end(line)?;
        }
        self.bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], encoding: TextEncoding, longest: usize) -> Vec<Result<String, String>> {
        let mut lines = Lines::new(bytes, encoding, longest).expect("read");
        let all = std::iter::from_fn(|| lines.next().expect("read")).collect();
        assert_eq!(lines.bytes(), bytes.len() as u64);
        all
    }

    fn wide(text: &str, width: usize, is_little: bool) -> Vec<u8> {
        let unit = |unit: u32| {
            let mut bytes = unit.to_le_bytes()[..width].to_vec();
            if !is_little {
                bytes.reverse();
            }
            bytes
        };
        match width {
            2 => text.encode_utf16().flat_map(|one| unit(one.into())).collect(),
            _ => text.chars().flat_map(|one| unit(one.into())).collect(),
        }
    }

    /// Characters with 0x0A among their bytes, in all places.
    const TEXT: &str = "one \u{0a0a}\u{010a}\u{0a01}\r\n\n😀 \u{10a0a}two\u{0a00}\nend";

    #[test]
    fn lines_of_marked_files_end_in_their_encoding() {
        let expected = TEXT.replace('\r', "");
        let expected: Vec<_> = expected.split('\n').map(|line| Ok(line.to_owned())).collect();
        let marked = format!("\u{feff}{TEXT}");
        let encodings = [
            TEXT.as_bytes().to_vec(),
            marked.as_bytes().to_vec(),
            wide(&marked, 2, true),
            wide(&marked, 2, false),
            wide(&marked, 4, true),
            wide(&marked, 4, false),
        ];
        for bytes in encodings {
            assert_eq!(lines(&bytes, TextEncoding::default(), 100), expected, "{bytes:02x?}");
        }
        let little = TextEncoding::named("utf-16le").expect("known");
        assert_eq!(lines(&wide(TEXT, 2, true), little, 100), expected);
        assert!(lines(b"", little, 100).is_empty());
        assert_eq!(lines(b"a\n", TextEncoding::default(), 100), [Ok("a".to_owned())]);
        let mut ends = Lines::new(&b"a\r\nb\r"[..], TextEncoding::default(), 100).expect("read");
        for (line, is_ended) in [("a", true), ("b\r", false)] {
            assert_eq!(ends.next().expect("read"), Some(Ok(line.to_owned())));
            assert_eq!(ends.is_ended(), is_ended);
        }
    }

    #[test]
    fn other_encodings_are_named() {
        let bytes = b"caf\xe9 \x80\n";
        let error = lines(bytes, TextEncoding::default(), 100).remove(0).expect_err("Latin-1");
        assert!(error.contains("byte 0xE9 at byte 3 of the line is no UTF-8"), "{error}");
        assert!(error.contains("windows-1252 for Latin-1"), "{error}");
        let latin = TextEncoding::named("Latin1").expect("known");
        assert_eq!(latin.name(), "windows-1252");
        assert_eq!(lines(bytes, latin, 100), [Ok("café €".to_owned())]);
        let shift = TextEncoding::named("shift_jis").expect("known");
        assert_eq!(lines(b"\x93\xfa\n\x93\n", shift, 100)[0], Ok("日".to_owned()));
        assert!(lines(b"\x93\xfa\n\x93\n", shift, 100)[1].is_err());
        let unmarked = lines(&wide("ab\ncd", 2, true), TextEncoding::default(), 100);
        assert!(unmarked[0].as_ref().expect_err("UTF-16").contains("UTF-16"), "{unmarked:?}");
        for name in ["klingon", "iso-2022-jp"] {
            let error = TextEncoding::named(name).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains("UTF-8"), "{error}");
        }
    }

    #[test]
    fn faults_stay_in_their_line() {
        let mut bytes = wide("\u{feff}a\n", 2, true);
        bytes.extend([0x62, 0, 0x3d, 0xd8]);
        bytes.extend(wide("\nc", 2, true));
        let found = lines(&bytes, TextEncoding::default(), 100);
        assert_eq!([&found[0], &found[2]], [&Ok("a".to_owned()), &Ok("c".to_owned())]);
        let error = found[1].as_ref().expect_err("a lone surrogate");
        assert!(error.contains("lone surrogate 0xD83D at byte 2 of the line"), "{error}");
        let found = lines(b"\xfe\xff\0a\0", TextEncoding::default(), 100);
        let error = found[0].as_ref().expect_err("half a character");
        assert!(error.contains("middle of a character, at byte 2 of the line"), "{error}");
    }

    #[test]
    fn long_lines_are_passed_over_in_pieces() {
        let long = 3 * PIECE as usize + 1;
        for (width, mark) in [(1, ""), (2, "\u{feff}"), (4, "\u{feff}")] {
            for is_little in [true, false] {
                let text = format!("{mark}abc\n{}\nabcd", "x\u{0a0a}".repeat(long));
                let (bytes, each) = match width {
                    1 => (text.into_bytes(), 4),
                    width => (wide(&text, width, is_little), 2 * width),
                };
                let found = lines(&bytes, TextEncoding::default(), 3 * width);
                let limit = 3 * width;
                let too_long =
                    |bytes| Err(format!("it has {bytes} bytes, more than the limit of {limit}"));
                let expected = [Ok("abc".to_owned()), too_long(each * long), too_long(4 * width)];
                assert_eq!(found, expected, "{width} {is_little}");
            }
        }
    }
}
