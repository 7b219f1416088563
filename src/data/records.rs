//! The text in a line of JSON.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// The text of a record.
pub(super) fn record(line: &[u8], field: &str) -> Result<String, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("it is no UTF-8: {error}"))?;
    if line.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut json = serde_json::Deserializer::from_str(line);
    let found = FieldOf(field).deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    let found = found.map_err(|error| {
        // There is one line, whichever it is in the file.
        error.to_string().replace(" at line 1 column ", " at column ")
    });
    match found? {
        Value::String(text) if text.trim().is_empty() => Err(format!("its {field} is empty")),
        Value::String(text) => Ok(text),
        other => {
            let other = other.to_string();
            let shown: String = other.chars().take(40).collect();
            Err(format!("its {field} is {shown}, which is no text"))
        }
    }
}

/// Reads one field of an object.
struct FieldOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a JSON object with a field {:?}", self.0)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<Value, M::Error> {
        use serde::de::Error as _;
        let (mut found, mut others) = (None, Vec::new());
        while let Some(name) = fields.next_key::<String>()? {
            if name != self.0 {
                fields.next_value::<IgnoredAny>()?;
                others.push(name);
            } else if found.replace(fields.next_value()?).is_some() {
                return Err(M::Error::custom(format!("it has the field {:?} twice", self.0)));
            }
        }
        found.ok_or_else(|| {
            let others = others.join(", ");
            M::Error::custom(format!(
                "it has no field {:?}, but {others}; name the one with the text with --field",
                self.0
            ))
        })
    }
}
