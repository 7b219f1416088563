//! JSON as Python's `json.dumps` writes it, which is what transformers gives templates as `tojson`.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python;
use crate::text::conversation::pairs;

/// How it is written.
struct Style {
    ensure_ascii: bool,
    /// What each level is indented with.
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: [String; 2],
    sort_keys: bool,
}

/// The filter: `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(value: Value, args: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match args.get(index) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indent = argument(1, "indent")?.map(|indent| indentation(&indent)).transpose()?;
    let separators = match argument(2, "separators")? {
        Some(separators) => read_separators(&separators)?,
        None if indent.is_some() => [",".to_owned(), ": ".to_owned()],
        None => [", ".to_owned(), ": ".to_owned()],
    };
    let style = Style {
        ensure_ascii: is_true(argument(0, "ensure_ascii")?),
        indent,
        separators,
        sort_keys: is_true(argument(3, "sort_keys")?),
    };
    named.assert_all_used()?;
    if args.len() > 4 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut text = String::new();
    style.write(&value, 0, &mut text)?;
    Ok(text)
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// A text, or a number of spaces.
fn indentation(indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    let count = if indent.kind() == ValueKind::Bool {
        Some(i64::from(indent.is_true()))
    } else {
        indent.as_i64().filter(|&count| count <= 1000)
    };
    let count = count.ok_or_else(|| invalid(format!("indent is {indent}, no count of spaces")))?;
    Ok(" ".repeat(usize::try_from(count).unwrap_or(0)))
}

fn read_separators(separators: &Value) -> Result<[String; 2], Error> {
    let list: Vec<_> = separators.try_iter()?.collect();
    match &*list {
        [item, key] => Ok([python::text(item), python::text(key)]),
        _ => Err(invalid(format!("separators is {separators}, no pair of texts"))),
    }
}

impl Style {
    fn write(&self, value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => text.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), text),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<_> = value.try_iter()?.collect();
                self.list(['[', ']'], items.len(), depth, text, |index, text| {
                    self.write(&items[index], depth + 1, text)
                })?;
            }
            ValueKind::Map => {
                let mut fields = pairs_of(value)?;
                if self.sort_keys {
                    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.list(['{', '}'], fields.len(), depth, text, |index, text| {
                    let (key, value) = &fields[index];
                    self.string(key, text);
                    text.push_str(&self.separators[1]);
                    self.write(value, depth + 1, text)
                })?;
            }
            kind => return Err(invalid(format!("a value of the kind {kind} is no JSON"))),
        }
        Ok(())
    }

    fn list(
        &self,
        [open, close]: [char; 2],
        count: usize,
        depth: usize,
        text: &mut String,
        mut item: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        text.push(open);
        for index in 0..count {
            if index > 0 {
                text.push_str(&self.separators[0]);
            }
            self.new_line(depth + 1, text);
            item(index, text)?;
        }
        if count > 0 {
            self.new_line(depth, text);
        }
        text.push(close);
        Ok(())
    }

    fn new_line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            text.push_str(&indent.repeat(depth));
        }
    }

    fn string(&self, string: &str, text: &mut String) {
        text.push('"');
        for character in string.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                ' '..='~' => text.push(character),
                other if self.ensure_ascii || other < ' ' => {
                    let mut units = [0; 2];
                    for unit in other.encode_utf16(&mut units) {
                        text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                other => text.push(other),
            }
        }
        text.push('"');
    }
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let real = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    match real {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ if real.is_nan() => "NaN".to_owned(),
        _ => python::real(real),
    }
}

/// The fields of an object. Keys that are no texts become texts.
fn pairs_of(object: &Value) -> Result<Vec<(String, Value)>, Error> {
    let keys: Vec<_> = object.try_iter()?.collect();
    let named = keys.iter().zip(pairs(object)).map(|(key, (_, value))| {
        let name = match key.kind() {
            ValueKind::String => python::text(key),
            ValueKind::None => "null".to_owned(),
            ValueKind::Bool => python::text(key).to_lowercase(),
            ValueKind::Number => number(key),
            kind => return Err(invalid(format!("a key of the kind {kind} is no JSON"))),
        };
        Ok((name, value))
    });
    named.collect()
}
