//! Ids of texts, and conversations to learn from.

use evenkeel::text::{Examples, Supervision};

use super::{Real, ids, list, words};

#[test]
fn ids_and_texts_are_those_of_tokenizers() {
    let Some(real) = Real::open() else { return };
    let tokenizer = real.tokenizer();
    for case in list(&real.expected["texts"]) {
        let text = words(&case["text"]);
        let found = tokenizer.encode(text, true).expect("ids");
        assert_eq!(found, ids(&case["ids"]), "{text:?}");
        let decoded = tokenizer.decode(&found, false).expect("a text");
        assert_eq!(decoded, words(&case["decoded"]), "{text:?}");
        let mut stream = tokenizer.decode_stream(false);
        let mut streamed: String =
            found.iter().map(|&id| stream.push(id).expect("a text")).collect();
        streamed.push_str(&stream.finish().expect("a text"));
        assert_eq!(streamed, decoded, "{text:?}");
    }
    let (special, expected) = (tokenizer.special(), &real.expected["special"]);
    for (found, name) in [(special.bos, "bos"), (special.eos, "eos"), (special.pad, "pad")] {
        assert_eq!(found.map(u64::from), expected[name].as_u64(), "{name}");
    }
    assert_eq!(tokenizer.size() as u64, expected["size"].as_u64().expect("a size"));
    let end = special.eos.expect("a token");
    assert!(special.is_stop(end) && tokenizer.token(end).as_deref() == Some("<|im_end|>"));
    tokenizer.check(&real.gpt(None)).expect("it fits the model");
}

#[test]
fn answers_count_as_transformers_renders_them() {
    let Some(real) = Real::open() else { return };
    let lines: Vec<_> = list(&real.expected["lines"]).iter().map(words).collect();
    let examples = Examples::parse("lines", lines.join("\n").as_bytes()).expect("examples");
    let supervision = Supervision::default();
    let (samples, summary) = supervision.encode_all(&real.tokenizer(), &examples).expect("samples");
    assert!(summary.truncated.is_empty() && summary.left_out.is_empty(), "{summary}");
    let expected = list(&real.expected["samples"]);
    assert_eq!(samples.len(), expected.len());
    for ((sample, expected), line) in samples.iter().zip(expected).zip(lines) {
        assert_eq!(sample.tokens, ids(&expected["tokens"]), "{line}");
        let counts: Vec<_> = sample.counts.iter().map(|&counts| u32::from(counts)).collect();
        assert_eq!(counts, ids(&expected["counts"]), "{line}");
    }
}
