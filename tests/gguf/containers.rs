//! Headers, metadata, places of tensors.

use evenkeel::gguf::{Array, File, Value};

use super::converted::{converted, error, error_of, moderate, open};
use super::models::SMOLLM;
use super::writer::{Encoded, Writer, bool, list, raw, texts, u32, u64};

fn good() -> Writer {
    converted(SMOLLM, &moderate(SMOLLM))
}

fn with(change: impl Fn(&mut Writer)) -> Writer {
    let mut writer = good();
    change(&mut writer);
    writer
}

fn with_value(name: &str, value: Encoded) -> Writer {
    with(|writer| writer.set(name, Some(value.clone())))
}

pub fn both_versions_and_all_alignments_are_read() {
    let plain = open(&good());
    let numbers = |file: &File| file.numbers("blk.0.ffn_up.weight", 0..192).expect("there");
    for (version, alignment) in [(2, 32), (3, 32), (3, 1), (3, 8), (2, 64), (3, 4096)] {
        let mut writer = with_value("general.alignment", u32(alignment));
        (writer.version, writer.alignment) = (version, alignment as usize);
        let file = open(&writer);
        assert_eq!(file.config(), plain.config(), "{version}, {alignment}");
        assert!(numbers(&file) == numbers(&plain), "{version}, {alignment}");
    }
    // In another order, and with more behind.
    let last = good().tensors.len() - 1;
    let shuffled = with(|writer| writer.tensors.swap(0, last));
    assert!(numbers(&open(&shuffled)) == numbers(&plain));
    let mut bytes = good().bytes();
    bytes.extend([0; 100]);
    File::from_bytes("a.gguf", bytes).expect("more than it wants");
}

pub fn what_no_container_has_is_named() {
    let up = "blk.0.ffn_up.weight";
    let moved = |to: u64| {
        let writer = good();
        writer.bytes_with(|name, offset| if name == up { to } else { offset })
    };
    let version = |version: u32| with(|writer| writer.version = version).bytes();
    let format = |code| with(|writer| writer.tensor(up).code = code).bytes();
    let shape = |shape: &[u64]| with(|writer| writer.tensor(up).shape = shape.to_vec()).bytes();
    let twice = with(|writer| writer.values.push(("llama.block_count".to_owned(), u32(1))));
    let again = with(|writer| writer.tensors.push(writer.tensors[3].clone()));
    let named = again.tensors[3].name.clone();
    for (bytes, messages) in [
        (b"PK\x03\x04 and more".to_vec(), &["no GGUF file", "PK\\x03\\x04"][..]),
        (Vec::new(), &["cut off", "its first word"]),
        (version(3 << 24), &["big-endian", "gguf-convert-endian"]),
        (version(2 << 24), &["big-endian"]),
        (version(1), &["version 1", "2 and 3 are read"]),
        (version(4), &["version 4"]),
        (twice.bytes(), &["the value llama.block_count is in it twice"]),
        (again.bytes(), &["the tensor", named.as_str(), "twice"]),
        (with_value("a.b", raw(13, &[0; 8])).bytes(), &["a.b is of type 13"]),
        (with_value("a.b", raw(9, &[11; 12])).bytes(), &["a.b is of type 185273099"]),
        (with_value("a.b", bool(2)).bytes(), &["a.b is 2, neither true nor false"]),
        (with_value("a.b", list(7, &[bool(1), bool(7)])).bytes(), &["a.b is 7"]),
        (with_value("a.b", raw(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])).bytes(), &["a.b", "UTF-8"]),
        (with_value("general.alignment", u32(24)).bytes(), &["alignment is 24", "power of two"]),
        (with_value("general.alignment", u32(0)).bytes(), &["alignment is 0"]),
        (with_value("general.alignment", u64(32)).bytes(), &["alignment is 32", "u32"]),
        (moved(33), &[up, "begins at 33, no multiple of"]),
        (moved(0), &[up, "token_embd.weight", "lie on the same bytes"]),
        (moved(1 << 40), &[up, "ends behind the file"]),
        (moved(u64::MAX - 31), &[up, "ends behind the file"]),
        (format(13), &[up, "is Q5_K; read are F32, F16, BF16, Q8_0", "llama-quantize"]),
        (format(77), &[up, "is of type 77, which is not known"]),
        (format(8), &[up, "[12, 16] is Q8_0", "blocks of 32"]),
        (shape(&[]), &[up, "0 dimensions"]),
        (shape(&[1, 1, 1, 12, 16]), &[up, "5 dimensions"]),
        (shape(&[0, 16]), &[up, "[0, 16], which cannot be"]),
        (shape(&[1 << 40, 1 << 40]), &[up, "which cannot be"]),
        (shape(&[1 << 62, 1]), &[up]),
        (shape(&[1 << 20, 16]), &[up, "ends behind the file"]),
    ] {
        let error = error_of(bytes);
        for message in messages {
            assert!(error.contains(message), "{message:?} is not in: {error}");
        }
    }
    let several = with(|writer| writer.tensors.iter_mut().skip(1).for_each(|t| t.code = 20));
    let error = error(&several);
    let count = several.tensors.len() - 1;
    assert!(error.contains(&format!("is IQ4_NL, the first of {count} tensors")), "{error}");
}

pub fn lists_in_lists_are_read() {
    let inner = list(9, &[texts(&["a", "b"]), texts(&[])]);
    let file = open(&with_value("a.b", inner));
    let texts = ["a", "b"].map(str::to_owned).to_vec();
    let expected = Array::Array(vec![Array::String(texts), Array::String(Vec::new())]);
    assert_eq!(file.metadata()["a.b"], Value::Array(expected));
    // A tower of lists of one list.
    let mut tower = Vec::new();
    for _ in 0..100_000 {
        tower.extend(9u32.to_le_bytes());
        tower.extend(1u64.to_le_bytes());
    }
    let error = error(&with_value("a.b", raw(9, &tower)));
    assert!(error.contains("a.b has lists in lists"), "{error}");
}
