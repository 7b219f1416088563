//! What a run is known again by.

use std::fmt;

use evenkeel::{Error, Result};

/// Fingerprints of what a run is made of: FNV-1a, 64 bits. A saved state belongs to one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    model: String,
    settings: String,
    data: String,
}

/// FNV-1a.
pub(crate) struct Hash(u64);

impl Hash {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn word(&mut self, word: u32) {
        self.0 = (self.0 ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
    }

    /// A text, with where it ends.
    pub fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.word(byte.into()));
        self.word(text.len() as u32);
    }

    pub fn finish(self) -> String {
        format!("{:016x}", self.0)
    }
}

fn of_texts(texts: &[&str]) -> String {
    let mut hash = Hash::new();
    texts.iter().for_each(|text| hash.text(text));
    hash.finish()
}

impl Key {
    pub(crate) fn new(model: &[&str], settings: &str, data: String) -> Self {
        Self { model: of_texts(model), settings: of_texts(&[settings]), data }
    }

    /// Fails for a state with another key, and says what is other.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub(crate) fn check(&self, found: Option<&str>) -> Result<()> {
        let refuse = |reason: String| Err(Error::Checkpoint { reason });
        let Some(found) = found else {
            return refuse("it is no saved state of a fine-tuning in a tab".to_owned());
        };
        let parts: Vec<_> = found.split('-').collect();
        let own = [
            ("weights", &self.model, "open the model that it was trained beside"),
            ("settings", &self.settings, "set what was set then"),
            ("data", &self.data, "give the lines that it has learned from"),
        ];
        let differs = |(index, (_, own, _)): &(usize, (&str, &String, &str))| {
            parts.get(*index).is_none_or(|part| part != own)
        };
        match own.into_iter().enumerate().find(differs) {
            None => Ok(()),
            Some((_, (what, _, way_out))) => {
                refuse(format!("it was saved with other {what}: {way_out}, or begin a new run"))
            }
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, settings, data } = self;
        write!(f, "{model}-{settings}-{data}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_other_is_named() {
        let key = |model, settings, data: &str| Key::new(&[model], settings, data.to_owned());
        let own = key("a", "b", "c");
        assert!(own.check(Some(&own.to_string())).is_ok());
        for (other, word) in [
            (key("x", "b", "c"), "other weights"),
            (key("a", "x", "c"), "other settings"),
            (key("a", "b", "x"), "other data"),
        ] {
            let error = own.check(Some(&other.to_string())).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(own.check(None).unwrap_err().to_string().contains("no saved state"));
        assert_ne!(of_texts(&["ab", "c"]), of_texts(&["a", "bc"]));
    }
}
