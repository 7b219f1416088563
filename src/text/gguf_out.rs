//! A tokenizer as a GGUF file describes it.

use serde_json::Value;

use super::Tokenizer;
use super::gguf::{ENDS, SPLITTINGS, Splitting};
use super::load::{TOKENIZER, invalid};
use super::template::DEFAULT;
use crate::error::{Error, Result};
use crate::gguf::{self, TokenKind};

/// Texts in which ways of splitting differ: letters of many scripts, marks, digits, spaces, signs.
const PROBE: &str = "Keels keep 12345 boats even; it's 3.14 WET, I'LL say!!\n\n  \t x = [1, 2] # --\r\n \
                     Größe naïve e\u{301} ﬁn Ελλάδα Привет שלום السلام हिन्दी ไทย 你好，世界。 こんにちは 한국어 \
                     ١٢٣ ½ 🙂👩‍🚀 \u{200b}\u{a0}\u{3000}end    ";

impl Tokenizer {
    /// The tokenizer as a GGUF file has it, for
    /// [`gguf::Export::tokenizer`](crate::gguf::Export::tokenizer): the kinds that
    /// [`from_gguf`](Self::from_gguf) reads, with the default chat template. What was made is read
    /// again, and must have the same ids for texts in many scripts.
    ///
    /// A file names a token that ends a text and one that ends a turn. More of them are found by their
    /// texts, as llama.cpp does: a generation of the file ends with such a control token
    /// (`<|endoftext|>`, say) also where one of the folder goes on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] that names what such a file cannot say.
    pub fn to_gguf(&self) -> Result<gguf::Tokenizer> {
        let json: Value = serde_json::from_slice(&self.to_json()?)
            .map_err(|error| invalid(TOKENIZER, error.to_string()))?;
        let mut described = self.without_ends();
        described.pre = Some(splitting_of(&json, &described)?.to_owned());
        described.merges = merges(&json["model"]["merges"])?;
        self.describe_tokens(&mut described)?;
        self.describe_ends(&mut described)?;
        described.eot = self.other_end(&described);
        self.check_same(&described)?;
        Ok(described)
    }

    /// What is known without a look at the kind.
    fn without_ends(&self) -> gguf::Tokenizer {
        let special = self.special();
        let template = self.chat_template(DEFAULT).map(|template| template.source().to_owned());
        gguf::Tokenizer {
            model: "gpt2".to_owned(),
            pre: None,
            tokens: Vec::new(),
            scores: Vec::new(),
            kinds: Vec::new(),
            merges: Vec::new(),
            bos: special.bos,
            eos: special.eos,
            eot: None,
            unknown: special.named.get("unk_token").and_then(|token| self.id(token)),
            padding: special.pad,
            adds_bos: Some(false),
            adds_eos: Some(false),
            adds_space: None,
            chat_template: template,
        }
    }

    fn describe_tokens(&self, described: &mut gguf::Tokenizer) -> Result<()> {
        let whole = self.whole_tokens();
        for id in 0..self.size() as u32 {
            let Some(token) = self.token(id) else {
                described.tokens.push(gguf::Tokenizer::unused(id as usize));
                described.kinds.push(TokenKind::Unused);
                continue;
            };
            let added = whole.get(&id);
            if added.is_some_and(|added| added.single_word || added.lstrip || added.rstrip) {
                let what = format!("the token {token:?} with single_word, lstrip or rstrip");
                return Err(unsupported(&what));
            }
            described.kinds.push(match added {
                Some(added) if added.special => TokenKind::Control,
                Some(_) => TokenKind::UserDefined,
                None => TokenKind::Normal,
            });
            described.tokens.push(token);
        }
        Ok(())
    }

    /// What ends a generation and would not be known to do so.
    fn other_end(&self, described: &gguf::Tokenizer) -> Option<u32> {
        let is_known = |id: u32| {
            let is_control = described.kinds.get(id as usize) == Some(&TokenKind::Control);
            let text = described.tokens.get(id as usize).map(String::as_str);
            described.eos == Some(id) || is_control && text.is_some_and(|text| ENDS.contains(&text))
        };
        self.special().stops.iter().copied().find(|&id| !is_known(id))
    }

    /// What is put around texts, by a text.
    fn describe_ends(&self, described: &mut gguf::Tokenizer) -> Result<()> {
        let (whole, plain) = (self.encode(PROBE, true)?, self.encode(PROBE, false)?);
        let around = whole.len().saturating_sub(plain.len());
        let front = (0..=around).find(|&front| whole[front..].starts_with(&plain));
        let Some(front) = front else { return Err(unsupported("what it does to a text's ends")) };
        let (begin, end) = (&whole[..front], &whole[front + plain.len()..]);
        for (name, ids, token, adds) in [
            ("bos", begin, &mut described.bos, &mut described.adds_bos),
            ("eos", end, &mut described.eos, &mut described.adds_eos),
        ] {
            match (ids, *token) {
                ([], _) => {}
                (&[id], None) => (*token, *adds) = (Some(id), Some(true)),
                (&[id], Some(known)) if id == known => *adds = Some(true),
                _ => {
                    let known = token.map_or("missing".to_owned(), |id| id.to_string());
                    let what =
                        format!("the tokens {ids:?} around a text, where {name}_token is {known}");
                    return Err(unsupported(&what));
                }
            }
        }
        Ok(())
    }

    /// Fails unless what was described makes the same ids, and the same text of them.
    fn check_same(&self, described: &gguf::Tokenizer) -> Result<()> {
        let again = Self::from_gguf(described)?;
        if let Some(&id) = self.special().stops.iter().find(|&&id| !again.special().is_stop(id)) {
            let token = self.token(id).unwrap_or_default();
            let what = format!("{token:?} as one more token that ends what is generated");
            return Err(unsupported(&what));
        }
        let tokens = described.tokens.iter().zip(&described.kinds);
        let whole =
            tokens.filter(|(_, kind)| matches!(kind, TokenKind::Control | TokenKind::UserDefined));
        let joined: String = whole.map(|(token, _)| format!("keel{token} 7")).collect();
        for text in [PROBE, &joined] {
            for adds in [true, false] {
                let ids = self.encode(text, adds)?;
                let is_same = again.encode(text, adds)? == ids
                    && again.decode(&ids, false)? == self.decode(&ids, false)?;
                if !is_same {
                    return Err(unsupported("a text that would have other tokens then"));
                }
            }
        }
        Ok(())
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported {
        what: format!("a tokenizer in a GGUF file with {what}"),
        instead: "write a folder, and give that to llama.cpp's convert_hf_to_gguf.py".to_owned(),
    }
}

/// llama.cpp's name for how a `tokenizer.json` splits texts.
fn splitting_of(json: &Value, described: &gguf::Tokenizer) -> Result<&'static str> {
    let model = &json["model"];
    let is_empty = |name: &str| match &model[name] {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let kind = model["type"].as_str().unwrap_or("unknown");
    let odd = ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"]
        .into_iter()
        .find(|name| !is_empty(name));
    if kind != "BPE" {
        return Err(unsupported(&format!("a model of the type {kind}, and not BPE over bytes")));
    }
    if let Some(odd) = odd {
        return Err(unsupported(&format!("{odd} {}, which is no BPE over bytes", model[odd])));
    }
    let own = [steps(&json["normalizer"]), steps(&json["pre_tokenizer"])];
    let whole_pieces = model["ignore_merges"].as_bool().unwrap_or(false);
    for name in SPLITTINGS {
        let known =
            Splitting::of(&gguf::Tokenizer { pre: Some(name.to_owned()), ..described.clone() })?;
        let of_known = [steps(&known.normalizer), known.steps.iter().flat_map(steps).collect()];
        if own == of_known && whole_pieces == known.whole_pieces {
            return Ok(name);
        }
    }
    let [normalizer, pre] = own.map(Value::Array);
    let known = SPLITTINGS.join(", ");
    Err(unsupported(&format!(
        "the normalizer {normalizer}, the pre_tokenizer {pre} and ignore_merges {whole_pieces}, \
         which is none of {known}"
    )))
}

/// The steps of a normalizer or splitter one by one, without what changes no ids.
fn steps(step: &Value) -> Vec<Value> {
    let inner = ["normalizers", "pretokenizers"].into_iter().find_map(|name| step[name].as_array());
    match (step, inner) {
        (Value::Null, _) => Vec::new(),
        (_, Some(inner)) => inner.iter().flat_map(steps).collect(),
        (step, None) => {
            let mut step = step.clone();
            if let Some(fields) = step.as_object_mut() {
                fields.remove("trim_offsets");
            }
            vec![step]
        }
    }
}

/// Pairs with a space between them; older files have them so.
fn merges(merges: &Value) -> Result<Vec<String>> {
    let merge = |merge: &Value| {
        let pair = merge.as_array().map(|pair| pair.iter().filter_map(Value::as_str));
        let text = match (pair, merge.as_str()) {
            (Some(pair), _) => pair.collect::<Vec<_>>().join(" "),
            (None, text) => text.unwrap_or_default().to_owned(),
        };
        let is_pair = text.split(' ').count() == 2;
        is_pair.then_some(text).ok_or_else(|| unsupported(&format!("the merge {merge}")))
    };
    merges.as_array().into_iter().flatten().map(merge).collect()
}
