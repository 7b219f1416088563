//! The fields of a JSON object, of which each must be understood: what nobody asked for is a
//! problem, unless it is known to change nothing.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Fields of a `config.json` that say nothing of the function from tokens to logits: where the
/// model comes from, how it was trained, how text is made with it.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "_num_labels",
    "architectures",
    "attention_dropout",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    // Linear layers in slices, which have the same sums in another order.
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// An object that is read field by field. A field that is null counts as absent.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// In front of names in messages.
    prefix: String,
    asked: BTreeSet<String>,
    problems: Vec<String>,
}

impl<'a> Fields<'a> {
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self::within(String::new(), map)
    }

    /// With something in front of names in messages.
    pub fn within(prefix: String, map: &'a Map<String, Value>) -> Self {
        Self { map, prefix, asked: BTreeSet::new(), problems: Vec::new() }
    }

    /// Whether the field is there, if only as null.
    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    pub fn value(&mut self, name: &str) -> Option<&'a Value> {
        self.asked.insert(name.to_owned());
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Says of a field what is wrong with it.
    pub fn problem(&mut self, name: &str, reason: &str) {
        let value = self.map.get(name).map_or("missing".to_owned(), Value::to_string);
        self.problems.push(format!("{}{name} is {value}{reason}", self.prefix));
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        kind: &str,
        parse: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(name)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.problem(name, &format!(", not {kind}"));
        }
        parsed
    }

    pub fn count(&mut self, name: &str) -> Option<usize> {
        let parse = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
        self.parsed(name, "a count", parse)
    }

    /// A count that must be there. What stands for one that is not is never used.
    pub fn required_count(&mut self, name: &str) -> usize {
        if self.value(name).is_none() {
            self.problem(name, "");
        }
        self.count(name).unwrap_or(1)
    }

    pub fn real(&mut self, name: &str) -> Option<f64> {
        self.parsed(name, "a number", Value::as_f64)
    }

    /// As [`required_count`](Self::required_count).
    pub fn required_real(&mut self, name: &str) -> f64 {
        if self.value(name).is_none() {
            self.problem(name, "");
        }
        self.real(name).unwrap_or(1.0)
    }

    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        self.parsed(name, "true or false", Value::as_bool).unwrap_or(default)
    }

    pub fn text(&mut self, name: &str) -> Option<&'a str> {
        self.parsed(name, "a text", Value::as_str)
    }

    pub fn list(&mut self, name: &str) -> Option<&'a [Value]> {
        self.parsed(name, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// A field that has one value here: this one, as where it is absent.
    pub fn only(&mut self, name: &str, value: impl Into<Value>) {
        let (only, value) = (value.into(), self.value(name));
        // 1 and 1.0 are one number.
        let same =
            |found: &Value| *found == only || only.is_number() && found.as_f64() == only.as_f64();
        if !value.is_none_or(same) {
            self.problem(name, &format!(", and only {only} is supported"));
        }
    }

    /// The fields of an object in this one, to be [given back](Self::take).
    pub fn object(&mut self, name: &str) -> Option<Self> {
        let map = self.parsed(name, "an object", Value::as_object)?;
        Some(Self::within(format!("{}{name}.", self.prefix), map))
    }

    /// Takes over what was found wrong in an object, all of whose fields count.
    pub fn take(&mut self, object: Self) {
        self.problems.extend(object.finish(&[]));
    }

    /// What was found wrong so far, whether or not all fields were asked for.
    pub fn into_problems(self) -> Vec<String> {
        self.problems
    }

    /// More that is wrong.
    pub fn add(&mut self, problems: Vec<String>) {
        self.problems.extend(problems);
    }

    /// Fields that say nothing of the function of this family, beside those of all.
    pub fn harmless(&mut self, names: &[&str]) {
        self.asked.extend(names.iter().map(|&name| name.to_owned()));
    }

    /// All that is wrong with a `config.json`.
    pub fn finish_config(self) -> Vec<String> {
        self.finish(HARMLESS)
    }

    /// All that is wrong, where these fields say nothing of the function.
    pub fn finish(mut self, harmless: &[&str]) -> Vec<String> {
        let unknown = self.map.iter().filter(|(name, value)| {
            let is_known = self.asked.contains(*name) || harmless.contains(&name.as_str());
            !is_known && !value.is_null()
        });
        let unknown: Vec<_> = unknown.map(|(name, _)| name.clone()).collect();
        for name in unknown {
            self.problem(&name, ", which is not known here (delete it if it changes no logits)");
        }
        self.problems
    }
}
