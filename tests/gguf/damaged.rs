//! Files that are cut off or damaged, and files on the disk. No page runs these.

use std::fs;

use evenkeel::gguf::{File, Format};
use proptest::prelude::*;

use super::converted::{converted, error_of, moderate, open};
use super::folders::all_bits;
use super::models::{LLAMA, SMOLLM};
use super::same_models::loaded;
use super::support;
use super::writer::{self, Writer, texts, u32};

/// A small file with every part that there is.
fn whole() -> Writer {
    let mut writer = converted(LLAMA, &moderate(LLAMA));
    writer.set("tokenizer.ggml.tokens", Some(texts(&["a", "b", "c"])));
    writer.set("tokenizer.ggml.scores", Some(writer::list(6, &[writer::f32(1.0)])));
    writer
}

/// Where the front of a file ends: where its last tensor is described.
fn front(bytes: &[u8]) -> usize {
    let name = b"rope_freqs.weight";
    let at = bytes.windows(name.len()).position(|window| window == name);
    at.expect("it is the last one") + name.len() + 4 + 8 + 4 + 8
}

#[test]
fn cut_files_are_named() {
    let bytes = whole().bytes();
    let front = front(&bytes);
    for length in (0..front).chain([front + 1, bytes.len() / 2, bytes.len() - 32]) {
        let error = error_of(bytes[..length].to_vec());
        let expected = if length < front { "it is cut off" } else { "ends behind the file" };
        assert!(error.contains(expected), "{length} bytes: {error}");
    }
}

/// All that is a length, or could be taken for one, larger than the file or just too large. Whether
/// or not it is one: no panic, and no memory for what is not there.
#[test]
fn lengths_are_not_believed() {
    let bytes = whole().bytes();
    let mut failures = 0;
    for at in 4..front(&bytes) - 8 {
        for length in [u64::MAX, 1 << 62, 1 << 40, bytes.len() as u64, 0] {
            let mut damaged = bytes.clone();
            damaged[at..at + 8].copy_from_slice(&length.to_le_bytes());
            failures += usize::from(read_all(damaged).is_err());
        }
    }
    assert!(failures > 1000, "{failures}");
}

/// Opens a file and reads all that it seems to have.
fn read_all(bytes: Vec<u8>) -> evenkeel::Result<()> {
    let file = File::from_bytes("damaged.gguf", bytes)?;
    file.tokenizer()?;
    for (name, info) in file.tensors() {
        assert!(info.bytes() < 1 << 20, "{name} has {} bytes", info.bytes());
        file.numbers(name, 0..info.count())?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// Some bytes of the front exchanged, or put in, or taken out.
    #[test]
    fn damaged_files_are_errors_at_most(
        changes in prop::collection::vec((0usize..4096, any::<u8>(), 0u8..3), 1..6)
    ) {
        let mut bytes = whole().bytes();
        let front = front(&bytes);
        for (at, byte, kind) in changes {
            let at = at % front;
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        // Whatever comes of it.
        let _ = read_all(bytes);
    }

    /// A block of any bits has numbers.
    #[test]
    fn any_bits_are_numbers(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        for format in Format::ALL {
            let blocks = bytes.len() / format.block_bytes();
            prop_assert_eq!(format.decode(&bytes).len(), blocks * format.block_elements());
        }
    }
}

#[test]
fn files_on_the_disk_are_read() {
    let Some(gpu) = support::gpu() else { return };
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("small.gguf");
    let writer = converted(SMOLLM, &moderate(SMOLLM));
    fs::write(&path, writer.bytes()).expect("written");
    let (file, memory) = (File::open(&path).expect("a file"), open(&writer));
    assert!(all_bits(&loaded(&gpu, &file)) == all_bits(&loaded(&gpu, &memory)));
    // Errors have its name.
    let mut wrong = writer.clone();
    wrong.set("llama.expert_count", Some(u32(8)));
    fs::write(&path, wrong.bytes()).expect("written");
    let error = File::open(&path).expect_err("experts").to_string();
    assert!(error.starts_with("small.gguf: llama.expert_count is 8"), "{error}");
    let error = File::open(place.path().join("none.gguf")).expect_err("none").to_string();
    assert!(error.contains("none.gguf"), "{error}");
    // A file that has become shorter since it was opened.
    fs::write(&path, writer.bytes()).expect("written");
    let file = File::open(&path).expect("a file");
    fs::write(&path, &writer.bytes()[..100]).expect("written");
    let error = file.numbers("output.weight", 0..16).expect_err("gone").to_string();
    assert!(error.starts_with("small.gguf: cannot be read"), "{error}");
}
