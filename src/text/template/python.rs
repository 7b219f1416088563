//! Values as Python's `str` and `repr` write them.

use minijinja::Value;
use minijinja::value::ValueKind;

/// `str(value)`; of what is undefined nothing.
pub(super) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => repr(value),
    }
}

fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => "Undefined".to_owned(),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => {
            real(f64::try_from(value.clone()).unwrap_or(f64::NAN))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<_> = value.try_iter().into_iter().flatten().collect();
            let list = items.iter().map(repr).collect::<Vec<_>>().join(", ");
            match (value.is_tuple(), items.len()) {
                (true, 1) => format!("({list},)"),
                (true, _) => format!("({list})"),
                (false, _) => format!("[{list}]"),
            }
        }
        ValueKind::Map => {
            let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
            let pair = |(key, value): (Value, Value)| format!("{}: {}", repr(&key), repr(&value));
            let pairs: Vec<_> = pairs.into_iter().flatten().map(pair).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        // None, True, False, and whole numbers are written so by minijinja.
        _ => value.to_string(),
    }
}

/// The shortest digits that give the same number, with an exponent where that is below -4 or
/// above 15.
pub(super) fn real(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    // The same digits and limits in Rust, but an exponent without sign and zeros.
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().expect("an exponent");
            format!("{digits}e{exponent:+03}")
        }
        None => text,
    }
}

fn quoted(string: &str) -> String {
    let quote = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    let mut text = String::from(quote);
    for character in string.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            _ if character == quote => text.extend(['\\', quote]),
            _ if is_printable(character) => text.push(character),
            _ => text.push_str(&match u32::from(character) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    text.push(quote);
    text
}

/// Neither a control or format character, nor a separator but the space, nor without a meaning.
/// Rust's own table, by what it escapes, is made of the same categories as Python's.
fn is_printable(character: char) -> bool {
    // Marks on letters are escaped where nothing is before them.
    let text: String = ['a', character].iter().collect();
    matches!(character, '"' | '\'') || text.escape_debug().eq(text.chars())
}
