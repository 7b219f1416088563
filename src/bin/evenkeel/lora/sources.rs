//! Configuration files.

use std::path::Path;

use evenkeel::{Error, Result};
use serde_json::Value;

use super::options::unsupported;
use super::settings::Fields;

/// What mlx_lm.lora knows and is not here, unless it is switched off.
const UNSUPPORTED: [&str; 8] = [
    "hf_dataset",
    "trust_remote_code",
    "report_to",
    "project_name",
    "prompt_feature",
    "completion_feature",
    "chat_feature",
    "text_feature",
];

/// What is of no consequence here: there is no cache that grows, and no file in a file.
const HARMLESS: [&str; 2] = ["clear_cache_threshold", "config"];

/// The settings in a file: YAML, or TOML where its name ends with .toml.
///
/// # Errors
/// [`Error::File`] where it cannot be read, [`Error::Data`] for what is no such file,
/// [`Error::Unsupported`] for what cannot be had.
pub fn read(path: &Path) -> Result<Fields> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::File {
        path: path.to_owned(),
        reason: format!("the configuration cannot be read: {error}"),
    })?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let value = if is_toml { of_toml(&text) } else { of_yaml(&text) };
    let refuse = |reason| Error::Data { what: path.display().to_string(), reason };
    let mut fields = match value.map_err(refuse)? {
        Value::Object(fields) => fields,
        Value::Null => Fields::new(),
        _ => return Err(refuse("it holds no names with values".to_owned())),
    };
    let is_on = |value: &Value| !value.is_null() && *value != Value::Bool(false);
    if let Some((name, _)) =
        fields.iter().find(|(name, value)| UNSUPPORTED.contains(&name.as_str()) && is_on(value))
    {
        return Err(unsupported(name));
    }
    fields.retain(|name, _| !UNSUPPORTED.contains(&&**name) && !HARMLESS.contains(&&**name));
    Ok(fields)
}

fn of_toml(text: &str) -> Result<Value, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

/// Numbers such as `1e-5` are numbers, as in YAML 1.2.
fn of_yaml(text: &str) -> Result<Value, String> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.to_string();
        error.lines().next().unwrap_or("it is no YAML").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_yaml_are_numbers() {
        let value = of_yaml("a: 1e-5\nb: 1.5e+3\nc: -1\nd: [1E-5, 1000, 0.5]\ne: true\nf: null\n");
        let value = value.expect("YAML");
        assert_eq!(value["a"].as_f64(), Some(1e-5));
        assert_eq!(value["b"].as_f64(), Some(1500.0));
        assert_eq!(value["c"].as_i64(), Some(-1));
        assert_eq!(value["d"][0].as_f64(), Some(1e-5));
        assert_eq!(value["d"][1].as_f64(), Some(1000.0));
        assert_eq!((value["e"].as_bool(), value["f"].is_null()), (Some(true), true));
        assert_eq!(of_yaml("# nothing\n\n"), Ok(Value::Null));
        assert!(of_yaml("a: [1, 2").is_err());
    }
}
