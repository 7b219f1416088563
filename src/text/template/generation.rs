//! `{% generation %}` blocks: the parts of a template's text that are answers. Jinja has no such
//! tag. A block becomes a filter block with the same text in it; a filter can put marks around it.

use std::ops::Range;

/// The filter of these blocks.
pub(super) const FILTER: &str = "generation";

/// What stands before and behind an answer: two of the code points that are no characters.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// A template with filter blocks in the place of its `generation` blocks, and whether it has any.
/// Faults of syntax stay for the parser.
pub(super) fn as_filters(source: &str) -> (String, bool) {
    let (mut text, mut rest, mut is_found) = (String::new(), source, false);
    while let Some(start) = next_tag(rest) {
        let tag = &rest[start..];
        let length = match &tag[..2] {
            "{#" => tag.find("#}").map(|end| end + 2),
            "{{" => end_of(tag, "}}"),
            _ => end_of(tag, "%}"),
        };
        let Some(length) = length else { break };
        text.push_str(&rest[..start]);
        let (tag, behind) = tag.split_at(length);
        let name = if tag.starts_with("{%") { inside(tag) } else { "" };
        rest = behind;
        match name {
            "generation" => {
                is_found = true;
                text.push_str(&tag.replacen("generation", &format!("filter {FILTER}"), 1));
            }
            "endgeneration" => text.push_str(&tag.replacen("endgeneration", "endfilter", 1)),
            "raw" => {
                let length = end_of_raw(behind).unwrap_or(behind.len());
                text.push_str(tag);
                text.push_str(&behind[..length]);
                rest = &behind[length..];
            }
            _ => text.push_str(tag),
        }
    }
    text.push_str(rest);
    (text, is_found)
}

/// Where the next tag, expression or comment begins.
fn next_tag(text: &str) -> Option<usize> {
    let opens =
        |&(at, _): &(usize, &str)| matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
    text.match_indices('{').find(opens).map(|(at, _)| at)
}

/// How long a tag is that ends so, where no text within it does.
fn end_of(tag: &str, end: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, character) in tag.char_indices().skip(2) {
        match (quote, character) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), close) if open == close => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, _) if tag[at..].starts_with(end) => return Some(at + end.len()),
            (None, _) => {}
        }
    }
    None
}

/// What is in a tag, without signs about whitespace.
fn inside(tag: &str) -> &str {
    let inner = tag.strip_prefix("{%").unwrap_or(tag);
    let inner = inner.strip_suffix("%}").unwrap_or(inner);
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    inner.strip_suffix(['-', '+']).unwrap_or(inner).trim()
}

/// How far it is to the end of the tag that ends a part of plain text.
fn end_of_raw(text: &str) -> Option<usize> {
    text.match_indices("{%").find_map(|(start, _)| {
        let end = start + text[start..].find("%}")? + 2;
        (inside(&text[start..end]) == "endraw").then_some(end)
    })
}

/// The filter that puts marks around an answer.
pub(super) fn mark(body: String) -> String {
    format!("{}{body}{}", MARKS[0], MARKS[1])
}

/// Where in the text the answers are that are marked in the other text.
///
/// # Errors
/// Where the one is not the other with marks.
pub(super) fn spans(text: &str, marked: &str) -> Result<Vec<Range<usize>>, String> {
    if let Some(mark) = MARKS.iter().find(|mark| text.contains(**mark)) {
        return Err(format!(
            "there is a U+{:04X} in its text, which is no character",
            *mark as u32
        ));
    }
    let (mut plain, mut open, mut spans) = (String::new(), Vec::new(), Vec::new());
    for character in marked.chars() {
        if character == MARKS[0] {
            open.push(plain.len());
        } else if character == MARKS[1] {
            let start = open.pop().ok_or_else(moved)?;
            spans.push(start..plain.len());
        } else {
            plain.push(character);
        }
    }
    if !open.is_empty() || plain != text {
        return Err(moved());
    }
    spans.retain(|span| !span.is_empty());
    spans.sort_by_key(|span| span.start);
    Ok(spans)
}

fn moved() -> String {
    "what it does with the text of a generation block hides where that lies".to_owned()
}
