//! What the metadata of a GGUF file is made of.

use serde_json::{Value as Json, json};

use crate::hugging_face::decimal;

/// The types of the format that are no numbers.
pub(super) const BOOL: u32 = 7;
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;

/// Longer lists are no settings of a model.
const LONGEST_SETTING: usize = 10_000;

macro_rules! numbers {
    ($($code:literal $kind:ident $type:ty),* $(,)?) => {
        /// A value among the metadata, in the type that the file has it in.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $(
                #[doc = concat!("A number in ", stringify!($type), ".")]
                $kind($type),
            )*
            /// True or false.
            Bool(bool),
            /// A text.
            String(String),
            /// A list.
            Array(Array),
        }

        /// A list among the metadata.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array {
            $(
                #[doc = concat!("Numbers in ", stringify!($type), ".")]
                $kind(Vec<$type>),
            )*
            /// True or false each.
            Bool(Vec<bool>),
            /// Texts.
            String(Vec<String>),
            /// Lists.
            Array(Vec<Array>),
        }

        /// Bytes of a number in the type with this code.
        pub(super) fn number_size(code: u32) -> Option<u64> {
            match code {
                $($code => Some(size_of::<$type>() as u64),)*
                _ => None,
            }
        }

        impl Value {
            /// The number in all of these bytes.
            pub(super) fn number(code: u32, bytes: &[u8]) -> Option<Self> {
                match code {
                    $($code => Some(Self::$kind(<$type>::from_le_bytes(bytes.try_into().ok()?))),)*
                    _ => None,
                }
            }

            /// The number as JSON, or the text for a real one that JSON does not have.
            fn number_to_json(&self) -> Option<Json> {
                match self {
                    $(Self::$kind(number) => Some(number.to_json()),)*
                    Self::Bool(_) | Self::String(_) | Self::Array(_) => None,
                }
            }
        }

        impl Value {
            /// The code of its type.
            pub(super) fn code(&self) -> u32 {
                match self {
                    $(Self::$kind(_) => $code,)*
                    Self::Bool(_) => BOOL,
                    Self::String(_) => STRING,
                    Self::Array(_) => ARRAY,
                }
            }

            /// Puts it behind these bytes, as a file has it.
            pub(super) fn write(&self, bytes: &mut Vec<u8>) {
                match self {
                    $(Self::$kind(number) => bytes.extend(number.to_le_bytes()),)*
                    Self::Bool(value) => bytes.push((*value).into()),
                    Self::String(text) => write_text(text, bytes),
                    Self::Array(list) => list.write(bytes),
                }
            }
        }

        impl Array {
            /// The code of what is in it.
            fn code(&self) -> u32 {
                match self {
                    $(Self::$kind(_) => $code,)*
                    Self::Bool(_) => BOOL,
                    Self::String(_) => STRING,
                    Self::Array(_) => ARRAY,
                }
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.code().to_le_bytes());
                bytes.extend((self.len() as u64).to_le_bytes());
                match self {
                    $(Self::$kind(list) => {
                        list.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
                    })*
                    Self::Bool(list) => bytes.extend(list.iter().map(|&value| u8::from(value))),
                    Self::String(list) => list.iter().for_each(|text| write_text(text, bytes)),
                    Self::Array(list) => list.iter().for_each(|list| list.write(bytes)),
                }
            }

            /// The numbers in these bytes, one after the other.
            pub(super) fn numbers(code: u32, bytes: &[u8]) -> Option<Self> {
                match code {
                    $($code => {
                        let number = |bytes: &[u8]| Some(<$type>::from_le_bytes(bytes.try_into().ok()?));
                        let numbers = bytes.chunks_exact(size_of::<$type>()).map(number);
                        Some(Self::$kind(numbers.collect::<Option<_>>()?))
                    })*
                    _ => None,
                }
            }

            /// How many there are.
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$kind(list) => list.len(),)*
                    Self::Bool(list) => list.len(),
                    Self::String(list) => list.len(),
                    Self::Array(list) => list.len(),
                }
            }

            fn numbers_to_json(&self) -> Option<Vec<Json>> {
                match self {
                    $(Self::$kind(list) => Some(list.iter().map(ToJson::to_json).collect()),)*
                    Self::Bool(_) | Self::String(_) | Self::Array(_) => None,
                }
            }
        }
    };
}

numbers! {
    0 U8 u8,
    1 I8 i8,
    2 U16 u16,
    3 I16 i16,
    4 U32 u32,
    5 I32 i32,
    6 F32 f32,
    10 U64 u64,
    11 I64 i64,
    12 F64 f64,
}

/// Puts a text behind these bytes, its length first.
pub(super) fn write_text(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Numbers as JSON.
trait ToJson {
    fn to_json(&self) -> Json;
}

macro_rules! whole_to_json {
    ($($type:ty),*) => {
        $(impl ToJson for $type {
            fn to_json(&self) -> Json {
                json!(*self)
            }
        })*
    };
}

whole_to_json!(u8, i8, u16, i16, u32, i32, u64, i64);

impl ToJson for f32 {
    /// As the decimal number that was meant.
    fn to_json(&self) -> Json {
        if self.is_finite() { decimal(*self) } else { json!(self.to_string()) }
    }
}

impl ToJson for f64 {
    fn to_json(&self) -> Json {
        if self.is_finite() { json!(*self) } else { json!(self.to_string()) }
    }
}

impl Value {
    /// A whole number that is not negative, of whichever type.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::F32(_) | Self::F64(_) => None,
            _ => self.number_to_json()?.as_u64(),
        }
    }

    /// True or false.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// A text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// A list.
    pub fn as_array(&self) -> Option<&Array> {
        if let Self::Array(list) = self { Some(list) } else { None }
    }

    /// As a setting in JSON.
    pub(super) fn to_json(&self) -> Json {
        match self {
            Self::Bool(value) => json!(*value),
            Self::String(text) => json!(text),
            Self::Array(list) => list.to_json(),
            _ => self.number_to_json().unwrap_or(Json::Null),
        }
    }
}

impl Array {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Texts.
    pub fn as_strings(&self) -> Option<&[String]> {
        if let Self::String(list) = self { Some(list) } else { None }
    }

    /// The number that all of them are.
    pub(super) fn same_in_all(&self) -> Option<Json> {
        let numbers = self.numbers_to_json()?;
        numbers.first().filter(|first| numbers.iter().all(|number| number == *first)).cloned()
    }

    fn to_json(&self) -> Json {
        if self.len() > LONGEST_SETTING {
            return json!(format!("a list of {}", self.len()));
        }
        if let Some(numbers) = self.numbers_to_json() {
            return Json::Array(numbers);
        }
        match self {
            Self::Bool(list) => json!(list),
            Self::String(list) => json!(list),
            Self::Array(list) => Json::Array(list.iter().map(Self::to_json).collect()),
            _ => Json::Null,
        }
    }
}
