//! Python's methods of texts, lists and objects: those of minijinja-contrib, and some it lacks.

use minijinja::value::{Kwargs, Rest, Tuple, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Calls a method that a value does not have itself.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => match of_text(text, method, args) {
            Err(error) if error.kind() == ErrorKind::UnknownMethod => {
                pycompat::unknown_method_callback(state, value, method, args)
            }
            result => result,
        },
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn of_text(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            Ok(match text.split_once(checked(separator)?) {
                Some((before, behind)) => three([before, separator, behind]),
                None => three([text, "", ""]),
            })
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            Ok(match text.rsplit_once(checked(separator)?) {
                Some((before, behind)) => three([before, separator, behind]),
                None => three(["", "", text]),
            })
        }
        "split" | "rsplit" => split(text, method == "rsplit", args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn three(parts: [&str; 3]) -> Value {
    Value::from_object(Tuple::from(parts.map(Value::from)))
}

fn checked(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    Ok(separator)
}

/// `split(sep=None, maxsplit=-1)`, from the left or from the right.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (args, named): (Rest<Value>, Kwargs) = from_args(args)?;
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        match args.get(index) {
            Some(value) => Ok(Some(value.clone()).filter(|value| !value.is_none())),
            None => named.get(name),
        }
    };
    let separator = argument(0, "sep")?;
    let most = match argument(1, "maxsplit")? {
        Some(most) => usize::try_from(i64::try_from(most)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    named.assert_all_used()?;
    if args.len() > 2 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let pieces = match &separator {
        Some(separator) => {
            let separator = separator.as_str().ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, "the separator is no text")
            })?;
            at_separator(text, checked(separator)?, most, from_right)
        }
        None => at_spaces(text, most, from_right),
    };
    Ok(pieces.into_iter().map(Value::from).collect())
}

fn at_separator<'a>(text: &'a str, separator: &str, most: usize, from_right: bool) -> Vec<&'a str> {
    let pieces = most.saturating_add(1);
    if !from_right {
        return text.splitn(pieces, separator).collect();
    }
    let mut found: Vec<_> = text.rsplitn(pieces, separator).collect();
    found.reverse();
    found
}

/// At runs of whitespace, those at the ends passed over. What is left whole keeps its own.
fn at_spaces(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = if from_right { text.trim_end() } else { text.trim_start() };
    while !rest.is_empty() {
        if found.len() == most {
            found.push(rest);
            break;
        }
        let (word, left) = if from_right {
            let start = rest.rfind(char::is_whitespace);
            let at = start.map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
            (&rest[at..], rest[..at].trim_end())
        } else {
            let at = rest.find(char::is_whitespace).unwrap_or(rest.len());
            (&rest[..at], rest[at..].trim_start())
        };
        found.push(word);
        rest = left;
    }
    if from_right {
        found.reverse();
    }
    found
}
