//! Tokens with a meaning of their own, and where a folder names them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::load::{CONFIG, GENERATION_CONFIG, Named, TOKENIZER_CONFIG, invalid};
use crate::error::Result;

/// The tokens of a tokenizer that are no text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text: what is put behind a text to learn from that is no conversation.
    pub eos: Option<u32>,
    /// Fills up what is too short. Any id does where such positions do not count.
    pub pad: Option<u32>,
    /// The ids that end a generation, in ascending order: [`eos`](Self::eos), and those of
    /// `generation_config.json`, or of `config.json` where that has none. Chat models often end
    /// their turns with one and their texts with another.
    pub stops: Vec<u32>,
    /// Such as `bos_token` and `<s>`: variables of chat templates.
    pub(super) named: BTreeMap<String, String>,
}

impl SpecialTokens {
    /// Whether a generation ends with this token.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stops.binary_search(&id).is_ok()
    }
}

/// The special tokens of a folder. `id_of` has the ids of all tokens.
///
/// # Errors
/// All names and ids that the tokenizer does not have.
pub(super) fn read(
    named: Named,
    generation: Option<&Map<String, Value>>,
    model: Option<&Map<String, Value>>,
    id_of: impl Fn(&str) -> Option<u32>,
    is_known: impl Fn(u32) -> bool,
) -> Result<SpecialTokens> {
    let mut special = SpecialTokens::default();
    for (name, place) in [
        ("bos_token", &mut special.bos),
        ("eos_token", &mut special.eos),
        ("pad_token", &mut special.pad),
    ] {
        let Some(token) = named.get(name) else { continue };
        let Some(id) = id_of(token) else {
            let reason = format!(
                "{name} is {token:?}, which the tokenizer does not have; add it to tokenizer.json, \
                 or set another"
            );
            return Err(invalid(TOKENIZER_CONFIG, reason));
        };
        *place = Some(id);
    }
    let configured = |name: &str| -> Result<Vec<u32>> {
        for (file, fields) in [(GENERATION_CONFIG, generation), (CONFIG, model)] {
            match fields.and_then(|fields| fields.get(name)) {
                None | Some(Value::Null) => {}
                Some(value) => return ids(file, name, value, &is_known),
            }
        }
        Ok(Vec::new())
    };
    let stops = configured("eos_token_id")?;
    special.bos = special.bos.or(configured("bos_token_id")?.first().copied());
    special.pad = special.pad.or(configured("pad_token_id")?.first().copied());
    special.eos = special.eos.or(stops.first().copied());
    let stops: BTreeSet<_> = stops.into_iter().chain(special.eos).collect();
    special.stops = stops.into_iter().collect();
    special.named = named;
    Ok(special)
}

/// One id or several. Some configurations have -1 for none.
fn ids(file: &str, name: &str, value: &Value, is_known: impl Fn(u32) -> bool) -> Result<Vec<u32>> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let mut ids = Vec::new();
    for value in list {
        if value.as_i64() == Some(-1) {
            continue;
        }
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        match id.filter(|&id| is_known(id)) {
            Some(id) => ids.push(id),
            None => {
                let reason = format!("{name} has {value}, which is no token of the tokenizer");
                return Err(invalid(file, reason));
            }
        }
    }
    Ok(ids)
}
