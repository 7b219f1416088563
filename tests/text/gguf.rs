//! Tokenizers as GGUF files describe them, against the folders that they would come from.

use std::collections::BTreeMap;

use evenkeel::gguf::{TokenKind, Tokenizer as Described};
use evenkeel::text::{ChatOptions, Conversation, Tokenizer};
use serde_json::Value;

use super::expected::{expected, files, ids, texts, tokenizer, with_template};

/// A file of one of the tokenizers.
fn object(name: &str, file: &str) -> Value {
    serde_json::from_slice(&files(name)[file]).expect("JSON")
}

/// What a converter writes into a GGUF file of this tokenizer.
fn described(name: &str, pre: &str) -> Described {
    let tokenizer = object(name, "tokenizer.json");
    let config = object(name, "tokenizer_config.json");
    let vocabulary = tokenizer["model"]["vocab"].as_object().expect("a vocabulary");
    let id = |value: &Value| value.as_u64().expect("an id") as u32;
    let mut tokens: BTreeMap<_, _> =
        vocabulary.iter().map(|(token, at)| (id(at), (token.clone(), TokenKind::Normal))).collect();
    let mut add = |id: u32, token: &Value| {
        let is_special = token["special"] == true;
        let kind = if is_special { TokenKind::Control } else { TokenKind::UserDefined };
        tokens.insert(id, (token["content"].as_str().expect("a text").to_owned(), kind));
    };
    for token in tokenizer["added_tokens"].as_array().expect("a list") {
        add(id(&token["id"]), token);
    }
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        add(id.parse().expect("an id"), token);
    }
    assert!(tokens.keys().copied().eq(0..tokens.len() as u32), "{name}");
    let named = |name: &str| {
        let token = &config[name];
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        tokens.iter().find(|(_, (token, _))| token == text).map(|(&id, _)| id)
    };
    let [bos, eos, unknown, padding] =
        ["bos_token", "eos_token", "unk_token", "pad_token"].map(named);
    let merges = tokenizer["model"]["merges"].as_array().expect("a list");
    let merges = merges.iter().map(|pair| texts(pair).join(" ")).collect();
    let (tokens, kinds) = tokens.into_values().unzip();
    Described {
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        tokens,
        scores: Vec::new(),
        kinds,
        merges,
        bos,
        eos,
        eot: None,
        unknown,
        padding,
        adds_bos: None,
        adds_eos: None,
        adds_space: None,
        chat_template: Some("{{ messages[0].content + eos_token }}".to_owned()),
    }
}

pub fn tokenizers_of_gguf_are_those_of_their_folders() {
    let all = expected();
    let texts_of = texts(&all["texts"]);
    for (name, pre, stops) in [
        ("gpt2", "smollm", &["<|endoftext|>", "<|im_end|>"][..]),
        ("llama3", "llama-bpe", &["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]),
        ("qwen2", "qwen2", &["<|endoftext|>", "<|im_end|>"]),
    ] {
        let tokenizer = Tokenizer::from_gguf(&described(name, pre)).expect("a tokenizer");
        let expected = &all["tokenizers"][name];
        let list = |key: &str| expected[key].as_array().expect("a list").iter().map(ids);
        for (text, expected) in texts_of.iter().zip(list("ids")) {
            assert_eq!(tokenizer.encode(text, false).expect("ids"), expected, "{name}: {text:?}");
        }
        for (text, expected) in texts_of.iter().zip(list("whole")) {
            assert_eq!(tokenizer.encode(text, true).expect("ids"), expected, "{name}: {text:?}");
        }
        for (ids, text) in list("ids").zip(texts(&expected["decoded"])) {
            assert_eq!(tokenizer.decode(&ids, false).expect("a text"), text, "{name}");
        }
        for drawn in expected["drawn"].as_array().expect("a list") {
            let skipped = tokenizer.decode(&ids(&drawn["ids"]), true).expect("a text");
            assert_eq!(skipped, drawn["skipped"].as_str().expect("a text"), "{name}");
        }
        let special = tokenizer.special();
        for (found, key) in [(special.bos, "bos"), (special.eos, "eos"), (special.pad, "pad")] {
            assert_eq!(found.map(u64::from), expected[key].as_u64(), "{name}: {key}");
        }
        assert_eq!(tokenizer.size() as u64, expected["size"].as_u64().expect("a size"), "{name}");
        let token = |id: &u32| tokenizer.token(*id).expect("a token");
        assert_eq!(special.stops.iter().map(token).collect::<Vec<_>>(), stops, "{name}");
        let chat = Conversation::new().with("user", "keel");
        let text = tokenizer.render_chat(&chat, &ChatOptions::default()).expect("a text");
        assert_eq!(text, format!("keel{}", token(&special.eos.expect("an end"))), "{name}");
    }
}

/// GPT-2's own way, by the tokenizers crate.
pub fn splitting_as_gpt2_does_is_read() {
    let mut edited = object("gpt2", "tokenizer.json");
    edited["pre_tokenizer"] = edited["pre_tokenizer"]["pretokenizers"][1].clone();
    let alone = Tokenizer::from_bytes(edited.to_string().as_bytes()).expect("a tokenizer");
    let found = Tokenizer::from_gguf(&described("gpt2", "gpt-2")).expect("a tokenizer");
    let (mut all, smollm) = (Vec::new(), described("gpt2", "smollm"));
    let smollm = Tokenizer::from_gguf(&smollm).expect("a tokenizer");
    for text in texts(&expected()["texts"]) {
        let [alone, found] = [&alone, &found].map(|one| one.encode(text, false).expect("ids"));
        assert_eq!(found, alone, "{text:?}");
        all.push(found == smollm.encode(text, false).expect("ids"));
    }
    assert!(all.contains(&false), "digits are split in one of them only");

    // What is put around a text where the file says so.
    let around =
        Described { adds_bos: Some(true), adds_eos: Some(true), ..described("gpt2", "smollm") };
    let around = Tokenizer::from_gguf(&around).expect("a tokenizer");
    let (whole, plain) = (around.encode("keel", true), around.encode("keel", false));
    assert_eq!(whole.expect("ids"), [&[1], &plain.expect("ids")[..], &[2]].concat());
}

pub fn tokenizers_of_gguf_that_are_not_known_are_named() {
    let good = described("gpt2", "smollm");
    let refused = |described: Described, parts: &[&str]| {
        let error = Tokenizer::from_gguf(&described).expect_err("refused").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let other = |model: &str, pre: Option<&str>| Described {
        model: model.to_owned(),
        pre: pre.map(str::to_owned),
        ..good.clone()
    };
    refused(other("llama", None), &["\"llama\"", "is not supported", "tokenizer.json"]);
    refused(other("gpt2", Some("tekken")), &["\"gpt2\"", "\"tekken\"", "smollm"]);
    refused(other("gpt2", None), &["\"none\""]);
    let twice = |tokens: &[String]| [&tokens[..tokens.len() - 1], &tokens[..1]].concat();
    refused(
        Described { tokens: twice(&good.tokens), ..good.clone() },
        &["tokenizer.ggml", "twice"],
    );
    let merges = vec!["alone".to_owned()];
    refused(Described { merges, ..good.clone() }, &["\"alone\"", "is no pair"]);
    let beyond = Described { eos: Some(520), ..good.clone() };
    refused(beyond, &["eos_token is 520", "there are 520 tokens"]);
    let without = Described { bos: None, adds_bos: Some(true), ..good };
    refused(without, &["add_bos_token is true, and there is none"]);
}

pub fn tokenizers_of_folders_are_described() {
    let all = expected();
    for (name, pre) in [("gpt2", "smollm"), ("llama3", "llama-bpe"), ("qwen2", "qwen2")] {
        let template = "{{ messages[0].content + eos_token }}\r\n";
        let tokenizer = with_template(name, template);
        let found = tokenizer.to_gguf().unwrap_or_else(|error| panic!("{name}: {error}"));
        let by_hand = Described {
            adds_bos: Some(name == "llama3"),
            adds_eos: Some(false),
            chat_template: Some(template.replace('\r', "")),
            ..described(name, pre)
        };
        assert_eq!(found, by_hand, "{name}");
        let again = Tokenizer::from_gguf(&found).expect("a tokenizer");
        for text in texts(&all["texts"]) {
            for adds in [true, false] {
                let [was, is] =
                    [&tokenizer, &again].map(|one| one.encode(text, adds).expect("ids"));
                assert_eq!(is, was, "{name}: {text:?}");
            }
        }
        let [was, is] = [&tokenizer, &again].map(Tokenizer::special);
        assert_eq!((is.bos, is.eos, is.pad), (was.bos, was.eos, was.pad), "{name}");
        assert_eq!(
            is.stops.iter().filter(|id| was.is_stop(**id)).count(),
            was.stops.len(),
            "{name}"
        );
    }
    // As GPT-2 does, and with what is put around a text.
    let edited = edited("gpt2", |json| {
        json["pre_tokenizer"] = json["pre_tokenizer"]["pretokenizers"][1].clone();
        json["post_processor"] = serde_json::json!({
            "type": "BertProcessing", "cls": ["<|im_start|>", 1], "sep": ["<|im_end|>", 2],
        });
    });
    let found = edited.expect("a tokenizer").to_gguf().expect("described");
    assert_eq!(found.pre.as_deref(), Some("gpt-2"));
    assert_eq!((found.bos, found.adds_bos), (Some(1), Some(true)));
    assert_eq!((found.eos, found.adds_eos), (Some(2), Some(true)));
}

/// One with another `tokenizer.json`, and without the files beside it.
fn edited(name: &str, edit: impl Fn(&mut Value)) -> evenkeel::Result<Tokenizer> {
    let mut json = object(name, "tokenizer.json");
    edit(&mut json);
    Tokenizer::from_bytes(json.to_string().as_bytes())
}

pub fn tokenizers_that_gguf_cannot_say_are_named() {
    let refused = |tokenizer: Tokenizer, parts: &[&str]| {
        let error = tokenizer.to_gguf().expect_err("refused").to_string();
        assert!(error.contains("convert_hf_to_gguf.py"), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    refused(tokenizer("gemma"), &["byte_fallback true"]);
    refused(tokenizer("llama2"), &["byte_fallback true"]);
    let of = |name: &str, edit: &dyn Fn(&mut Value)| edited(name, edit).expect("a tokenizer");
    let space = of("gpt2", &|json| {
        json["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true.into();
    });
    refused(space, &["add_prefix_space", "smollm"]);
    let normalized = of("llama3", &|json| json["normalizer"] = serde_json::json!({"type": "NFKC"}));
    refused(normalized, &["NFKC", "llama-bpe"]);
    let pairs = of("llama3", &|json| json["model"]["ignore_merges"] = false.into());
    refused(pairs, &["ignore_merges false"]);
    let strips = of("qwen2", &|json| json["added_tokens"][1]["lstrip"] = true.into());
    refused(strips, &["<|im_start|>", "lstrip"]);
    let unigram = serde_json::json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]});
    let unigram = of("gpt2", &|json| {
        json["model"] = unigram.clone();
        json["added_tokens"] = serde_json::json!([]);
    });
    refused(unigram, &["Unigram"]);

    // One end of a turn has a place in a file, a second one has none.
    let ends = |ids: Value| {
        let mut files = files("gpt2");
        let generation = serde_json::json!({ "eos_token_id": ids });
        files.insert("generation_config.json".to_owned(), generation.to_string().into_bytes());
        Tokenizer::from_files(&files).expect("a tokenizer")
    };
    let turns = ends(serde_json::json!([2, 40])).to_gguf().expect("described");
    assert_eq!(turns.eot, Some(40));
    assert!(Tokenizer::from_gguf(&turns).expect("a tokenizer").special().is_stop(40));
    refused(ends(serde_json::json!([2, 40, 41])), &["one more token that ends"]);
}
