//! What two runs were told.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use evenkeel::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

/// The settings of a run in its folder: those of `lora` and of `train`.
const FILES: [&str; 2] = ["settings.yaml", "config.yaml"];
/// Settings of places, which are others in any two runs.
const PLACES: [&str; 7] =
    ["adapter_path", "out", "tensorboard", "report", "metrics", "csv", "profile"];

/// A setting that two runs do not share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    pub name: String,
    pub first: Value,
    pub second: Value,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, first, second } = self;
        write!(f, "{name}: {first} and {second}")
    }
}

/// The settings that are others; none where a run has not said its own.
///
/// # Errors
/// [`Error::File`] for settings that cannot be read.
pub fn changed(first: &Path, second: &Path) -> Result<Vec<Changed>> {
    let (Some(first), Some(second)) = (read(first)?, read(second)?) else { return Ok(Vec::new()) };
    let names: BTreeSet<_> = first.keys().chain(second.keys()).collect();
    let changed = names.into_iter().filter(|name| !PLACES.contains(&name.as_str()));
    let changed = changed.filter_map(|name| {
        let [one, other] = [&first, &second].map(|all| all.get(name).cloned().unwrap_or_default());
        (one != other).then(|| Changed { name: name.clone(), first: one, second: other })
    });
    Ok(changed.collect())
}

fn read(folder: &Path) -> Result<Option<Map<String, Value>>> {
    let there = FILES.map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
    let Some(path) = there else { return Ok(None) };
    let refuse = |reason: String| Error::File { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| refuse(format!("the settings cannot be read: {error}")))?;
    let fields = serde_saphyr::from_str(&text);
    fields.map(Some).map_err(|error| refuse(format!("they are no YAML with names: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_no_settings() {
        let folder = tempfile::tempdir().expect("a folder");
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        for (path, text) in [
            (&first, "seed: 1\nout: a\nlr: 0.5\nclip: 1.0\n"),
            (&second, "seed: 2\nout: b\nclip: 1.0\n"),
        ] {
            std::fs::create_dir(path).expect("made");
            std::fs::write(path.join("config.yaml"), text).expect("written");
        }
        let changed = changed(&first, &second).expect("settings");
        let said: Vec<_> = changed.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["lr: 0.5 and null", "seed: 1 and 2"]);
        assert_eq!(super::changed(&first, folder.path()).expect("none"), []);
    }
}
