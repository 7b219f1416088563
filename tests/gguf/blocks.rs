//! Numbers of each format, and a file that the PyPI package gguf wrote.

use evenkeel::gguf::{Array, File, Format, TokenKind, Value};
use evenkeel::nn::{GptConfig, Positions, Rotary};

use super::converted::{self, metadata};
use super::models::SMOLLM;
use super::writer::{Encoded, Tensor, Writer, bool, f32, i32, list, text, texts, u32};

/// By tests/fixtures/make_gguf.py.
const FIXTURE: &[u8] = include_bytes!("../fixtures/gguf_blocks.gguf");

fn fixture() -> File {
    File::from_bytes("gguf_blocks.gguf", FIXTURE.to_vec()).unwrap_or_else(|e| panic!("{e}"))
}

pub fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

pub fn blocks_are_the_numbers_of_ggml() {
    let file = fixture();
    let read = |name: &str, range| file.numbers(name, range).expect("in the file");
    for format in Format::ALL {
        let expected = bits(&read(&format!("{format}.values"), 0..1024));
        let found = bits(&read(format.name(), 0..1024));
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{format}, number {index}");
        }
        // Wherever blocks begin and end.
        for range in [0..1, 31..33, 255..257, 100..700, 511..1024, 1023..1024, 512..512] {
            let part = bits(&read(format.name(), range.clone()));
            assert!(part == expected[range.clone()], "{format}, numbers {range:?}");
        }
        assert_eq!(Format::of_code(format.code()), Some(format));
        let info = &file.tensors()[format.name()];
        assert_eq!((info.format(), info.shape(), info.count()), (format, &[2, 512][..], 1024));
        let bytes = 1024 / format.block_elements() * format.block_bytes();
        assert_eq!(info.bytes(), bytes as u64);
        // A block that is not whole has no numbers.
        assert!(format.decode(&vec![0; format.block_bytes() - 1]).is_empty());
    }
    for (name, range) in [("Q4_1", 1000..1025), ("Q9", 0..1)] {
        let error = file.numbers(name, range).expect_err("not there").to_string();
        assert!(error.starts_with("gguf_blocks.gguf: ") && error.contains(name), "{error}");
    }
}

pub fn what_another_writer_wrote_is_read() {
    let file = fixture();
    let of = |name: &str| &file.metadata()[&format!("test.{name}")];
    for (name, value) in [
        ("u8", Value::U8(u8::MAX)),
        ("i8", Value::I8(i8::MIN)),
        ("u16", Value::U16(u16::MAX)),
        ("i16", Value::I16(i16::MIN)),
        ("u32", Value::U32(u32::MAX)),
        ("i32", Value::I32(i32::MIN)),
        ("f32", Value::F32(0.1)),
        ("bool", Value::Bool(true)),
        ("text", Value::String("Grüße".to_owned())),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(0.1)),
        ("bools", Value::Array(Array::Bool(vec![true, false]))),
        ("texts", Value::Array(Array::String(["a", "", "ß"].map(str::to_owned).to_vec()))),
        ("numbers", Value::Array(Array::I16(vec![-1, 0, i16::MAX]))),
    ] {
        assert_eq!(*of(name), value, "{name}");
    }
    assert_eq!((of("u8").as_u64(), of("i8").as_u64(), of("f32").as_u64()), (Some(255), None, None));
    let expected = GptConfig {
        hidden: 12,
        positions: Positions::Rotary(Rotary::new(500_000.0)),
        tied_head: true,
        ..GptConfig::llama(3, 64, 2, [2, 1], 16)
    };
    assert_eq!(file.config().gpt, expected);

    let tokenizer = file.tokenizer().expect("it fits").expect("there is one");
    assert_eq!((tokenizer.model.as_str(), tokenizer.pre), ("llama", None));
    assert_eq!(tokenizer.tokens, ["<unk>", "<s>", "▁a"]);
    assert_eq!(tokenizer.scores, [0.0, -1.0, -2.5]);
    assert_eq!(tokenizer.kinds, [TokenKind::Unknown, TokenKind::Control, TokenKind::Normal]);
    assert!(tokenizer.merges.is_empty());
    let ids = (tokenizer.bos, tokenizer.eos, tokenizer.unknown, tokenizer.padding);
    assert_eq!(ids, (Some(1), None, Some(0), None));
    let adds = (tokenizer.adds_bos, tokenizer.adds_eos, tokenizer.adds_space);
    assert_eq!(adds, (Some(true), None, None));
    assert_eq!(tokenizer.chat_template.as_deref(), Some("{{ messages }}"));
}

pub fn tokenizers_that_do_not_fit_are_named() {
    let with = |own: &[(&str, Encoded)]| {
        let table = Tensor::f32("token_embd.weight", &[11, 16], &[0.0; 176]);
        let mut writer = Writer::new(metadata(SMOLLM), vec![table]);
        for (name, value) in own {
            writer.set(&format!("tokenizer.{name}"), Some(value.clone()));
        }
        converted::open(&writer)
    };
    assert!(with(&[]).tokenizer().expect("nothing is wrong").is_none());
    let kind = || ("ggml.model", text("gpt2"));
    let tokens = || ("ggml.tokens", texts(&["a", "b"]));
    let good = with(&[
        kind(),
        tokens(),
        ("ggml.merges", texts(&["a b"])),
        ("ggml.padding_token_id", i32(1)),
        ("ggml.add_eos_token", bool(0)),
        ("ggml.add_space_prefix", bool(1)),
        ("ggml.pre", text("smollm")),
    ]);
    let good = good.tokenizer().expect("it fits").expect("there is one");
    assert_eq!((good.merges, good.padding), (vec!["a b".to_owned()], Some(1)));
    assert_eq!((good.adds_eos, good.adds_space), (Some(false), Some(true)));
    assert_eq!(good.pre.as_deref(), Some("smollm"));
    for (own, messages) in [
        (vec![("ggml.model", u32(2))], &["ggml.model is not a text"][..]),
        (vec![kind(), ("ggml.tokens", text("a"))], &["ggml.tokens is not a list of texts"]),
        (
            vec![kind(), tokens(), ("ggml.scores", list(6, &[f32(0.0)]))],
            &["ggml.scores is not a list with one for each of the 2 tokens"],
        ),
        (
            vec![kind(), tokens(), ("ggml.token_type", list(5, &[i32(1), i32(7)]))],
            &["ggml.token_type is not a list"],
        ),
        (
            vec![
                kind(),
                tokens(),
                ("ggml.bos_token_id", u32(2)),
                ("ggml.add_bos_token", u32(1)),
                ("chat_template", bool(1)),
            ],
            &[
                "tokenizer.ggml.bos_token_id is not one of the 2 tokens",
                "tokenizer.ggml.add_bos_token is not true or false",
                "tokenizer.chat_template is not a text",
            ],
        ),
    ] {
        let error = with(&own).tokenizer().expect_err("it does not fit").to_string();
        for message in messages {
            assert!(error.contains(message), "{message:?} is not in: {error}");
        }
    }
}
