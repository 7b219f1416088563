//! The text in a line of JSON.

use super::object::{object, text_in};

/// The text of a record.
pub(super) fn record(line: &[u8], field: &str) -> Result<String, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("it is no UTF-8: {error}"))?;
    let fields = object(line)?;
    let text = text_in(&fields, field).map_err(|reason| {
        let other = !fields.is_empty() && !fields.contains_key(field);
        let hint = if other { "; name the one with the text with --field" } else { "" };
        reason + hint
    });
    text.map(str::to_owned)
}
