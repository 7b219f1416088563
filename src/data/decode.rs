//! From the bytes of a file to characters.

use crate::error::{Error, Result};

/// The mark that says how a text is encoded: its bytes, and what they say. The longer of two that
/// begin alike comes first.
pub(super) const MARKS: [(&[u8], Encoding); 5] = [
    (&[0xef, 0xbb, 0xbf], Encoding::Utf8),
    (&[0xff, 0xfe, 0, 0], Encoding::Utf32(u32::from_le_bytes)),
    (&[0, 0, 0xfe, 0xff], Encoding::Utf32(u32::from_be_bytes)),
    (&[0xff, 0xfe], Encoding::Utf16(u16::from_le_bytes)),
    (&[0xfe, 0xff], Encoding::Utf16(u16::from_be_bytes)),
];

#[derive(Clone, Copy)]
pub(super) enum Encoding {
    Utf8,
    Utf16(fn([u8; 2]) -> u16),
    Utf32(fn([u8; 4]) -> u32),
}

/// What was read before something that is no text, where that stands, and what it is.
pub(super) struct Fault {
    before: String,
    pub(super) offset: usize,
    /// With an @ where its place belongs.
    pub(super) what: String,
}

/// The characters of a text that comes from outside; `name` stands in messages.
///
/// - It is UTF-8, or what its byte-order mark says: UTF-8, UTF-16 or UTF-32 in either byte order.
///   The mark itself is no text. U+FEFF anywhere else is a character.
/// - A line ends in `\n`: `\r\n` and a lone `\r` become one.
/// - Every other character stays, NUL too.
/// - What is no text is refused, with its offset in bytes and its line, counted from 1: bytes that
///   are no UTF-8, lone surrogates, words that are no characters, a last character that is cut off.
///   So is what looks like UTF-16 or UTF-32 without a mark: text in which every other byte is NUL
///   or another control character.
///
/// ```
/// use evenkeel::data::decode;
///
/// assert_eq!(decode("a text", b"\xef\xbb\xbfone\r\ntwo").unwrap(), "one\ntwo");
/// assert_eq!(decode("a text", b"\xff\xfeh\0i\0").unwrap(), "hi");
/// let error = decode("a text", b"one\ncaf\xe9!").unwrap_err();
/// assert!(error.to_string().contains("byte 0xE9 at offset 7 (line 2) is no UTF-8"));
/// ```
///
/// # Errors
/// [`Error::Data`].
pub fn decode(name: &str, bytes: &[u8]) -> Result<String> {
    let refuse = |reason: String| Err(Error::Data { what: name.into(), reason });
    let (mark, encoding) = MARKS
        .into_iter()
        .find(|(mark, _)| bytes.starts_with(mark))
        .unwrap_or((&[], Encoding::Utf8));
    if mark.is_empty()
        && let Some(found) = unmarked(bytes)
    {
        return refuse(format!(
            "{found}; save the text as UTF-8, or with its byte-order mark, or take it as bytes"
        ));
    }
    let body = &bytes[mark.len()..];
    let text = match encoding {
        Encoding::Utf8 => utf8(body),
        Encoding::Utf16(word) => utf16(body, word),
        Encoding::Utf32(word) => utf32(body, word),
    };
    match text {
        Ok(text) => Ok(with_unix_lines(text)),
        Err(Fault { before, offset, what }) => {
            let (offset, line) = (mark.len() + offset, lines(before));
            let (begin, end) = what.split_once('@').expect("a place for the offset");
            refuse(format!(
                "{begin}at offset {offset} (line {line}){end}; save the text as UTF-8, or take \
                 it as bytes"
            ))
        }
    }
}

/// Lines end in `\n`.
pub(super) fn with_unix_lines(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

/// The line that follows a text, counted from 1.
fn lines(text: String) -> usize {
    1 + with_unix_lines(text).matches('\n').count()
}

fn utf8(bytes: &[u8]) -> Result<String, Fault> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| {
        let offset = error.valid_up_to();
        let before = String::from_utf8_lossy(&bytes[..offset]).into_owned();
        let what = match error.error_len() {
            Some(_) => format!("byte 0x{:02X} @ is no UTF-8", bytes[offset]),
            None => "the text ends in the middle of a character, @".into(),
        };
        Fault { before, offset, what }
    })
}

pub(super) fn utf16(bytes: &[u8], word: fn([u8; 2]) -> u16) -> Result<String, Fault> {
    let (words, rest) = bytes.as_chunks::<2>();
    let (mut text, mut offset) = (String::with_capacity(bytes.len() / 2), 0);
    for character in char::decode_utf16(words.iter().map(|&bytes| word(bytes))) {
        match character {
            Ok(character) => {
                text.push(character);
                offset += 2 * character.len_utf16();
            }
            Err(error) => {
                let what = format!("lone surrogate 0x{:04X} @", error.unpaired_surrogate());
                return Err(Fault { before: text, offset, what });
            }
        }
    }
    whole(text, rest, offset)
}

pub(super) fn utf32(bytes: &[u8], word: fn([u8; 4]) -> u32) -> Result<String, Fault> {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut text = String::with_capacity(bytes.len() / 4);
    for (at, &bytes) in words.iter().enumerate() {
        let word = word(bytes);
        let Some(character) = char::from_u32(word) else {
            let what = format!("0x{word:08X} @ is no character of UTF-32");
            return Err(Fault { before: text, offset: 4 * at, what });
        };
        text.push(character);
    }
    whole(text, rest, 4 * words.len())
}

fn whole(text: String, rest: &[u8], offset: usize) -> Result<String, Fault> {
    if rest.is_empty() {
        return Ok(text);
    }
    let what = "the text ends in the middle of a character, @".into();
    Err(Fault { before: text, offset, what })
}

/// What a text without a mark is instead of UTF-8, if it looks like something else. Of UTF-16, one
/// byte of each character is below 0x20 in all alphabets, and NUL in what ASCII has.
pub(super) fn unmarked(bytes: &[u8]) -> Option<&'static str> {
    let is_control = |byte: u8| byte < 0x20 && !(0x09..=0x0d).contains(&byte);
    let (mut controls, mut counts, mut nul) = ([0_usize; 4], [0_usize; 4], false);
    for (at, &byte) in bytes.iter().enumerate() {
        counts[at % 4] += 1;
        controls[at % 4] += usize::from(is_control(byte));
        nul |= byte == 0;
    }
    let full = |at: usize| 2 * controls[at] > counts[at];
    if !nul {
        return None;
    }
    let [first, second] = [full(0), full(1)];
    let [third, fourth] = if bytes.len() < 4 { [first, second] } else { [full(2), full(3)] };
    match [first, second, third, fourth] {
        [false, true, false, true] => {
            Some("every other byte is NUL or a control character, as in UTF-16 (little-endian)")
        }
        [true, false, true, false] => {
            Some("every other byte is NUL or a control character, as in UTF-16 (big-endian)")
        }
        [false, _, true, true] | [true, true, _, false] => {
            Some("most bytes are NUL or control characters, as in UTF-32")
        }
        [true, true, true, true] => Some("most bytes are NUL or control characters"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "böse 😀\n\u{feff}\0Tür";

    fn words16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn words32(text: &str, bytes: fn(u32) -> [u8; 4]) -> Vec<u8> {
        text.chars().map(u32::from).flat_map(bytes).collect()
    }

    #[track_caller]
    fn refused(bytes: &[u8], parts: &[&str]) {
        let error = decode("t.txt", bytes).expect_err("no text").to_string();
        assert!(error.starts_with("t.txt: ") && error.contains("UTF-8"), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error} lacks one of {parts:?}");
    }

    #[test]
    fn marks_are_no_text_and_say_the_encoding() {
        let marked = format!("\u{feff}{TEXT}");
        for bytes in [
            TEXT.as_bytes().to_vec(),
            marked.as_bytes().to_vec(),
            words16(&marked, u16::to_le_bytes),
            words16(&marked, u16::to_be_bytes),
            words32(&marked, u32::to_le_bytes),
            words32(&marked, u32::to_be_bytes),
        ] {
            assert_eq!(decode("t.txt", &bytes).unwrap(), TEXT, "{bytes:02x?}");
        }
        // A mark and nothing behind it.
        for mark in [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"] {
            assert_eq!(decode("t.txt", mark).unwrap(), "", "{mark:02x?}");
        }
    }

    #[test]
    fn lines_end_in_one_way() {
        let ends = "a\r\nb\rc\nd\r\r\n\r";
        assert_eq!(decode("t.txt", ends.as_bytes()).unwrap(), "a\nb\nc\nd\n\n\n");
        let wide = words16(&format!("\u{feff}{ends}"), u16::to_be_bytes);
        assert_eq!(decode("t.txt", &wide).unwrap(), "a\nb\nc\nd\n\n\n");
        // Other characters that some programs take for ends of lines stay.
        let others = "a\u{85}b\u{2028}c\x0bd\x0ce";
        assert_eq!(decode("t.txt", others.as_bytes()).unwrap(), others);
    }

    #[test]
    fn faults_are_placed() {
        refused(b"one\r\ntw\xff\xc3\xb6", &["byte 0xFF at offset 7 (line 2) is no UTF-8"]);
        // With a mark, offsets are those of the file.
        refused(b"\xef\xbb\xbfa\xffb", &["byte 0xFF at offset 4 (line 1)"]);
        refused(b"a\nb\rt\xc3", &["ends in the middle of a character, at offset 5 (line 3)"]);
        // A surrogate in UTF-8, an overlong form, beyond the last character.
        refused(b"a\xed\xa0\x80", &["byte 0xED at offset 1"]);
        refused(b"a\xc0\x80", &["byte 0xC0 at offset 1"]);
        refused(b"\xf4\x90\x80\x80", &["byte 0xF4 at offset 0"]);

        let le = |words: &[u16]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let high: Vec<u8> = le(&[0xfeff, 0x61, 0x0a, 0xd83d, 0x62]);
        refused(&high, &["lone surrogate 0xD83D at offset 6 (line 2)"]);
        let low: Vec<u8> = le(&[0xfeff, 0xd83d, 0xde00, 0xde00]);
        refused(&low, &["lone surrogate 0xDE00 at offset 6 (line 1)"]);
        let last: Vec<u8> = le(&[0xfeff, 0x61, 0xd83d]);
        refused(&last, &["lone surrogate 0xD83D at offset 4"]);
        refused(b"\xfe\xff\0a\0", &["the middle of a character, at offset 4 (line 1)"]);

        let large = words32("\u{feff}\n", u32::to_be_bytes);
        refused(&[&large[..], &[0, 0x11, 0, 0]].concat(), &["0x00110000 at offset 8 (line 2)"]);
        refused(&[&large[..], &[0, 0, 0xd8, 0]].concat(), &["0x0000D800 at offset 8"]);
        refused(&[&large[..], &[0, 0, 0]].concat(), &["middle of a character, at offset 8"]);
    }

    #[test]
    fn wide_text_without_a_mark_is_named() {
        for text in ["plain words\n", "ein Tür", "по-русски, с запятой", "Ελληνικά ναι"]
        {
            refused(&words16(text, u16::to_le_bytes), &["UTF-16 (little-endian)"]);
            refused(&words16(text, u16::to_be_bytes), &["UTF-16 (big-endian)"]);
            refused(&words32(text, u32::to_le_bytes), &["UTF-32"]);
            refused(&words32(text, u32::to_be_bytes), &["UTF-32"]);
        }
        refused(b"h\0", &["UTF-16 (little-endian)"]);
        refused(&[0; 99], &["most bytes are NUL"]);
        // NUL here and there is a character like others.
        for text in ["hello\0world\n".repeat(9), "1\t2\t3\n".into(), "ab\0".into()] {
            assert_eq!(decode("t.txt", text.as_bytes()).unwrap(), text);
        }
    }
}
