//! Folders on the disk, and devices with small bindings. No page can run these.

use std::fs;
use std::path::Path;

use evenkeel::hugging_face::Folder;
use evenkeel::{Precision, WeightStorage};
use safetensors::Dtype;

use super::folders::{all_bits, load, loaded, numbers, open, parameters_in, sorted, values};
use super::models::{MISTRAL, SMOLLM};
use super::support::{self, block_on};
use super::tensors::*;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("UTF-8")
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn folders_are_written_over_and_nothing_old_is_left() {
    let Some(gpu) = support::gpu() else { return };
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("new/model");
    let tensors = drawn(MISTRAL, Dtype::BF16);
    let memory = open(folder(MISTRAL, &tensors));
    let first = loaded(&gpu, &memory);
    block_on(memory.export().shard_bytes(1000).save(&first, &path)).expect("saved");
    let several = names(&path);
    assert!(several.len() > 4 && several.contains(&"config.json".to_owned()), "{several:?}");
    fs::write(path.join("tokenizer.json"), "{}").expect("written");
    fs::write(path.join("model-notes.safetensors"), "mine").expect("written");

    // Over the files that it reads from, in another number.
    let folder = Folder::open(&path).expect("a folder");
    let second = loaded(&gpu, &folder);
    assert!(all_bits(&second) == all_bits(&first));
    block_on(folder.export().save(&second, &path)).expect("saved");
    let kept = ["config.json", "model-notes.safetensors", "model.safetensors", "tokenizer.json"];
    assert_eq!(names(&path), kept);
    assert_eq!(fs::read_to_string(path.join("config.json")).expect("text"), MISTRAL);
    let single = Folder::open(&path).expect("a folder");
    assert!(all_bits(&loaded(&gpu, &single)) == all_bits(&first));
    block_on(single.export().shard_bytes(1000).save(&first, &path)).expect("saved");
    assert!(!names(&path).contains(&"model.safetensors".to_owned()));
    loaded(&gpu, &Folder::open(&path).expect("a folder"));
}

#[test]
fn a_save_that_fails_leaves_the_old_files() {
    let Some(gpu) = support::gpu() else { return };
    let place = tempfile::tempdir().expect("a folder");
    let tensors = drawn(SMOLLM, Dtype::BF16);
    let memory = open(folder(SMOLLM, &tensors));
    let parameters = loaded(&gpu, &memory);
    block_on(memory.export().save(&parameters, place.path())).expect("saved");
    let before = fs::read(place.path().join("model.safetensors")).expect("there");
    let export = memory.export().precision(Precision::F16);
    block_on(export.save(&parameters, place.path())).expect_err("too large for f16");
    assert!(fs::read(place.path().join("model.safetensors")).expect("there") == before);
    assert_eq!(names(place.path()), ["config.json", "model.safetensors"]);
    let missing = Folder::open(place.path().join("none")).expect_err("none").to_string();
    assert!(missing.contains("config.json"), "{missing}");
}

/// Tensors that lie in parts of whole rows get theirs.
#[test]
fn tensors_in_parts_are_loaded() {
    let Some(small) = support::gpu_with_bindings(12 << 10) else { return };
    let gpu = support::gpu().expect("a GPU");
    let config = SMOLLM.replacen("\"vocab_size\": 11", "\"vocab_size\": 500", 1);
    let resize = |tensor: Tensor| match tensor.shape[0] {
        11 => Tensor::drawn(&tensor.name, &[500, 16], Dtype::BF16, 9),
        _ => tensor,
    };
    let tensors: Vec<_> = drawn(SMOLLM, Dtype::BF16).into_iter().map(resize).collect();
    let folder = open(folder(&config, &tensors));
    let large = loaded(&gpu, &folder);
    for storage in WeightStorage::ALL {
        let parts = parameters_in(&small, &folder.config().gpt, storage);
        assert!(storage != WeightStorage::F32 || parts.is_in_parts(0));
        load(&folder, &parts).expect("loaded");
        for name in large.names() {
            assert!(values(&parts, name) == values(&large, name), "{name} in {storage}");
        }
        let files = block_on(folder.export().to_files(&parts)).expect("written");
        assert!(numbers(&contents(&files)) == numbers(&sorted(tensors.clone())), "{storage}");
    }
}
