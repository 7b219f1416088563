//! JSON objects in which no key comes twice.

use serde_core::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The object in a line. Of a key that comes twice readers keep one or the other value, so such an
/// object is refused, at any depth.
pub(super) fn object(line: &str) -> Result<Map<String, Value>, String> {
    if line.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut json = serde_json::Deserializer::from_str(line);
    let value = Unique.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    match value {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("it is no JSON object; a line is one, and the file no list".to_owned()),
        Err(error) => {
            // There is one line, whichever it is in the file.
            let error = error.to_string();
            Err(format!("it is no JSON: {}", error.replace(" at line 1 column ", " at column ")))
        }
    }
}

/// The text in a field, or what is wrong with it.
pub(super) fn text_in<'a>(fields: &'a Map<String, Value>, field: &str) -> Result<&'a str, String> {
    match fields.get(field) {
        Some(Value::String(text)) if text.trim().is_empty() => Err(format!("its {field} is empty")),
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            let shown: String = other.to_string().chars().take(40).collect();
            Err(format!("its {field} is {shown}, which is no text"))
        }
        None if fields.is_empty() => Err("it has no fields".to_owned()),
        None => {
            let others: Vec<_> = fields.keys().map(String::as_str).collect();
            Err(format!("it has no field {field:?}, but {}", others.join(", ")))
        }
    }
}

/// Reads any value.
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Value, S::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Unique)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<Value, M::Error> {
        let mut object = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(M::Error::custom(format!("it has the key {key:?} twice")));
            }
            let value = fields.next_value_seed(Unique)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_serde_json() {
        let line = r#"{"a": [1, -2, 3.5, true, null, "x\ny"], "b": {"a": 18446744073709551615}}"#;
        let expected: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(Value::Object(object(line).expect("an object")), expected);
    }

    #[test]
    fn what_is_no_object_is_said() {
        for (line, part) in [
            (" \t", "it is empty"),
            ("[1]", "it is no JSON object"),
            (r#"{"a": "#, "EOF while parsing a value at column 6"),
            (r#"{"a": 1} {"b": 2}"#, "trailing characters at column 10"),
            (r#"{"a": 1, "b": 2, "a": 3}"#, r#"it has the key "a" twice at column 20"#),
            (r#"{"a": [{"b": 1, "b": 1}]}"#, r#"it has the key "b" twice"#),
            (r#"{"a": 1, "\u0061": 1}"#, r#"it has the key "a" twice"#),
        ] {
            let error = object(line).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
        // As deep as serde_json goes, and no deeper.
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(500), "]".repeat(500));
        assert!(object(&deep).expect_err("too deep").contains("recursion limit"));
    }
}
