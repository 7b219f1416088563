//! Options out of a file, and those of several places as one.

use std::path::Path;

use evenkeel::{Error, Result};
use serde_json::{Map, Value};

use super::options::Options;

pub type Fields = Map<String, Value>;

/// The options of a file.
///
/// # Errors
/// [`Error::File`] for one that cannot be read, a key that there is not, and a value that the key
/// cannot have.
pub fn read(path: &Path) -> Result<Options> {
    let refuse = |reason: String| Error::File { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path)
        .map_err(|error| refuse(format!("the configuration cannot be read: {error}")))?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let fields: Fields = match extension.to_ascii_lowercase().as_str() {
        "yaml" | "yml" if text.trim().is_empty() => Fields::new(),
        "yaml" | "yml" => serde_saphyr::from_str(&text)
            .map_err(|error| refuse(format!("it is no YAML with keys: {error}")))?,
        "toml" => toml::from_str(&text)
            .map_err(|error| refuse(format!("it is no TOML: {}", error.message())))?,
        other => {
            let reason = format!("a configuration ends in .yaml, .yml or .toml, not in {other:?}");
            return Err(refuse(reason));
        }
    };
    checked(fields).map_err(refuse)
}

/// Keys, with `-` or `_` between their words, one by one, so that an error can name its key.
fn checked(fields: Fields) -> Result<Options, String> {
    let mut all = Fields::new();
    for (key, value) in fields {
        let name = match key.replace('-', "_").as_str() {
            "learning_rate" => "lr".to_owned(),
            "text" => "data".to_owned(),
            other => other.to_owned(),
        };
        let known = fields_of(&Options::default());
        if !known.contains_key(&name) {
            return Err(format!("there is no key {key:?}; {}", nearest(&name, known.keys())));
        }
        let one = Fields::from_iter([(name.clone(), value)]);
        let parsed = serde_json::from_value::<Options>(Value::Object(one.clone()));
        parsed.map_err(|error| format!("{key} cannot be {}: {error}", one[&name]))?;
        if all.insert(name, one.into_values().next().unwrap_or_default()).is_some() {
            return Err(format!("the key {key:?} stands there twice"));
        }
    }
    serde_json::from_value(Value::Object(all)).map_err(|error| error.to_string())
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let distance = |other: &&String| strsim::damerau_levenshtein(name, other);
    match known.min_by_key(distance) {
        Some(other) => format!("the nearest that there is is {other:?}"),
        None => "there are none".to_owned(),
    }
}

/// All options, absent ones too.
pub fn fields_of(options: &Options) -> Fields {
    match serde_json::to_value(options) {
        Ok(Value::Object(fields)) => fields,
        other => unreachable!("options are {other:?}"),
    }
}

/// Those that were given.
pub fn given(options: &Options) -> Fields {
    let is_absent = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    fields_of(options).into_iter().filter(|(_, value)| !is_absent(value)).collect()
}

/// The options of `first`, and those of `second` where it has none. What is no setting of the run
/// comes from `first`.
pub fn over(first: &Options, second: &Options) -> Options {
    let mut fields = given(second);
    fields.extend(given(first));
    let merged: Options = serde_json::from_value(Value::Object(fields)).expect("its own fields");
    let Options { config, resume, restart, dry_run, profile, dashboard, quiet, json, .. } =
        first.clone();
    let lose_device_at = first.lose_device_at.clone();
    Options {
        config,
        resume,
        restart,
        dry_run,
        profile,
        dashboard,
        quiet,
        json,
        lose_device_at,
        ..merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked_of(text: &str) -> Result<Options, String> {
        checked(serde_json::from_str(text).expect("JSON"))
    }

    #[test]
    fn keys_are_checked_one_by_one() {
        let options = checked_of(r#"{"data": "a", "learning-rate": 0.1, "save-every": 3}"#);
        let options = options.expect("known keys");
        assert_eq!((options.data.len(), options.lr, options.save_every), (1, Some(0.1), Some(3)));
        let error = checked_of(r#"{"bacth": 3}"#).expect_err("unknown");
        assert!(
            error.contains("\"bacth\"") && error.contains("nearest that there is is \"batch\"")
        );
        let error = checked_of(r#"{"batch": "x"}"#).expect_err("no number");
        assert!(error.starts_with("batch cannot be \"x\""), "{error}");
        let error = checked_of(r#"{"lr": 1, "learning_rate": 2}"#).expect_err("twice");
        assert!(error.contains("twice"), "{error}");
    }

    #[test]
    fn what_is_given_comes_before_what_was() {
        let file = checked_of(r#"{"batch": 2, "steps": 9, "recompute": true}"#).expect("keys");
        let line = Options { batch: Some(3), quiet: true, ..Options::default() };
        let merged = over(&line, &file);
        assert_eq!((merged.batch, merged.steps), (Some(3), Some(9)));
        assert!(merged.recompute && merged.quiet);
    }
}
