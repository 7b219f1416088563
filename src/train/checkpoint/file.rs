//! Checkpoints as safetensors files. The header is written here, in one order, so that the same
//! checkpoint is always the same bytes.

use std::collections::BTreeMap;
use std::str::FromStr;

use safetensors::{Dtype, SafeTensors};

use super::{Checkpoint, Entry, HostState, Origin, RESERVED, invalid};
use crate::error::Result;
use crate::json::push_string;

const FORMAT: &str = "evenkeel checkpoint 2";

/// Only where the frozen weights are not in it.
const FROZEN_FINGERPRINT: &str = "frozen fingerprint";

/// Only where it has the moments of one rank alone.
const SHARD: &str = "shard of the moments";

/// In front of the names of notes.
const NOTE: &str = "note/";

const DYNAMIC: &str = "dynamic";
const STATIC: &str = "static";

impl Checkpoint {
    /// The contents of a safetensors file, the same bytes for the same checkpoint: metadata and
    /// tensors in the order of their names.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut header = self.header();
        // Numbers are to begin at a multiple of 8 bytes.
        let length = header.len().next_multiple_of(8);
        header.extend(std::iter::repeat_n(' ', length - header.len()));
        let words: usize = self.entries.values().map(|entry| entry.words.len()).sum();
        let mut bytes = Vec::with_capacity(8 + length + 4 * words);
        bytes.extend((length as u64).to_le_bytes());
        bytes.extend(header.into_bytes());
        for entry in self.entries.values() {
            bytes.extend(entry.words.iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes
    }

    fn header(&self) -> String {
        let mut header = String::from("{");
        push_string(&mut header, "__metadata__");
        let mut separator = ":{";
        let note = |(name, text): (&String, &String)| (format!("{NOTE}{name}"), text.clone());
        let mut info = self.origin.to_info();
        info.extend(self.notes.iter().map(note));
        for (key, value) in info {
            header.push_str(separator);
            push_string(&mut header, &key);
            header.push(':');
            push_string(&mut header, &value);
            separator = ",";
        }
        header.push('}');
        let mut start = 0;
        for (name, entry) in &self.entries {
            let end = start + 4 * entry.words.len();
            header.push(',');
            push_string(&mut header, name);
            let dtype = if entry.is_float { "F32" } else { "U32" };
            let shape: Vec<_> = entry.shape.iter().map(usize::to_string).collect();
            let shape = shape.join(",");
            header.push_str(&format!(
                ":{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{start},{end}]}}"
            ));
            start = end;
        }
        header.push('}');
        header
    }

    /// Reads the contents of a safetensors file that [`to_bytes`](Self::to_bytes) made.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) for anything else: a file that is cut short
    /// or damaged, one of another format, and one with NaN or Inf among its numbers.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let unreadable = |error: safetensors::SafeTensorError| invalid(error.to_string());
        let (length, metadata) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let none = Default::default();
        let info = metadata.metadata().as_ref().unwrap_or(&none);
        match info.get("format").map(String::as_str) {
            Some(FORMAT) => {}
            Some(other) if other.starts_with("evenkeel checkpoint") => {
                return Err(invalid(format!(
                    "its format is {other:?}, and this version reads {FORMAT:?}; its weights are \
                     under their names, for any reader of safetensors and Parameters::write"
                )));
            }
            other => return Err(invalid(format!("its format is {other:?}, not {FORMAT:?}"))),
        }
        let origin = Origin::from_info(&info.clone().into_iter().collect())?;
        let note = |(key, text): (&String, &String)| {
            Some((key.strip_prefix(NOTE)?.to_owned(), text.clone()))
        };
        let notes = info.iter().filter_map(note).collect();
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        // Of two tensors of one name, readers of JSON keep one and say nothing.
        let header = &bytes[8..8 + length];
        let key = b"\"data_offsets\"";
        let written = header.windows(key.len()).filter(|window| window == key).count();
        if written != file.len() {
            return Err(invalid(format!("{written} tensors are in it under {} names", file.len())));
        }
        let mut entries = BTreeMap::new();
        for (name, view) in file.iter() {
            let is_float = match view.dtype() {
                Dtype::F32 => true,
                Dtype::U32 => false,
                other => return Err(invalid(format!("{name} is {other:?}, not F32 or U32"))),
            };
            let chunks = view.data().chunks_exact(4);
            let words = chunks.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let entry = Entry { shape: view.shape().to_vec(), is_float, words };
            entry.check_finite(name)?;
            entries.insert(name.to_owned(), entry);
        }
        Ok(Self { entries, origin, notes })
    }
}

impl Origin {
    fn to_info(&self) -> BTreeMap<String, String> {
        let scale = if self.has_dynamic_scale { DYNAMIC } else { STATIC };
        let info = [
            ("format", FORMAT.to_owned()),
            ("steps", self.host.steps.to_string()),
            ("seed", self.host.seed.to_string()),
            ("learning rate factor", self.host.learning_rate_factor.to_string()),
            ("model", self.model.clone()),
            ("optimizer", self.optimizer.clone()),
            ("moments", self.moments.clone()),
            ("weights", self.weights.clone()),
            ("loss scale", scale.to_owned()),
            ("parameters", self.parameters.clone()),
            ("frozen", self.frozen.clone()),
        ];
        let info = info.into_iter().map(|(key, value)| (key.to_owned(), value));
        let fingerprint = self.frozen_fingerprint.clone();
        let fingerprint = fingerprint.map(|value| (FROZEN_FINGERPRINT.to_owned(), value));
        let shard = self.shard.clone().map(|value| (SHARD.to_owned(), value));
        info.chain(fingerprint).chain(shard).chain(self.fields.clone()).collect()
    }

    fn from_info(info: &BTreeMap<String, String>) -> Result<Self> {
        let text = |key: &str| {
            info.get(key).cloned().ok_or_else(|| invalid(format!("it does not say its {key}")))
        };
        let learning_rate_factor: f32 = number(info, "learning rate factor")?;
        if !(learning_rate_factor >= 0.0 && learning_rate_factor.is_finite()) {
            let reason = format!("its learning rate factor is {learning_rate_factor}");
            return Err(invalid(reason));
        }
        let has_dynamic_scale = match text("loss scale")?.as_str() {
            DYNAMIC => true,
            STATIC => false,
            other => return Err(invalid(format!("its loss scale is {other:?}"))),
        };
        let fields = info.iter().filter(|(key, _)| key.starts_with(RESERVED));
        Ok(Self {
            host: HostState {
                steps: number(info, "steps")?,
                seed: number(info, "seed")?,
                learning_rate_factor,
            },
            model: text("model")?,
            optimizer: text("optimizer")?,
            moments: text("moments")?,
            weights: text("weights")?,
            has_dynamic_scale,
            parameters: text("parameters")?,
            frozen: text("frozen")?,
            frozen_fingerprint: info.get(FROZEN_FINGERPRINT).cloned(),
            shard: info.get(SHARD).cloned(),
            fields: fields.map(|(key, names)| (key.clone(), names.clone())).collect(),
        })
    }
}

fn number<T: FromStr>(info: &BTreeMap<String, String>, key: &str) -> Result<T> {
    let text = info.get(key).map_or("", String::as_str);
    text.parse().map_err(|_| invalid(format!("its {key} is {text:?}, which is no such number")))
}
