//! What is wrong with a folder is said, all at once, and nothing changes.

use evenkeel::hugging_face::Folder;
use safetensors::Dtype;

use super::folders::{Files, all_bits, find, load, open, parameters};
use super::models::SMOLLM;
use super::support;
use super::tensors::*;

pub fn all_that_is_wrong_is_named_and_nothing_changes() {
    let Some(gpu) = support::gpu() else { return };
    let good = drawn(SMOLLM, Dtype::F32);
    let parameters = parameters(&gpu, &open(folder(SMOLLM, &good)).config().gpt);
    let before = all_bits(&parameters);
    let without =
        |name: &str| good.iter().filter(|tensor| tensor.name != name).cloned().collect::<Vec<_>>();
    let in_place = |tensor: Tensor| {
        let mut tensors = without(&tensor.name);
        tensors.push(tensor);
        tensors
    };
    let (up, down) = ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight");
    let spoiled = |value: f32| {
        let mut values = find(&good, up).values();
        values[7] = value;
        Tensor::of(up, &[12, 16], &values)
    };
    let integers = Tensor { dtype: Dtype::I32, ..find(&good, up).clone() };
    let adapter = Tensor::of("model.adapter", &[2], &[0.0; 2]);
    let mut both = without(down);
    both.push(adapter.clone());
    for (tensors, messages) in [
        (without(up), &[up, "[12, 16] is missing"][..]),
        (without("lm_head.weight"), &["lm_head.weight", "is missing", "tie_word_embeddings"]),
        (in_place(adapter), &["model.adapter [2] is not known"]),
        (both, &["down_proj.weight [16, 12] is missing", "model.adapter [2] is not known"]),
        (
            in_place(Tensor { shape: vec![16, 12], ..find(&good, up).clone() }),
            &[up, "has the shape [16, 12]", "wants [12, 16]"],
        ),
        (in_place(integers), &[up, "is I32"]),
        (in_place(spoiled(f32::NAN)), &[up, "holds NaN at index 7"]),
        (in_place(spoiled(f32::NEG_INFINITY)), &[up, "holds -inf at index 7"]),
    ] {
        let folder = open(folder(SMOLLM, &tensors));
        let error = load(&folder, &parameters).expect_err("it is wrong").to_string();
        for message in messages {
            assert!(error.contains(message), "{message:?} is not in: {error}");
        }
        assert!(all_bits(&parameters) == before, "changed after: {error}");
    }
    load(&open(folder(SMOLLM, &good)), &parameters).expect("nothing is wrong");
    assert!(all_bits(&parameters) != before);
}

pub fn damaged_files_are_named() {
    let files = folder(SMOLLM, &drawn(SMOLLM, Dtype::F32));
    let error = |change: &dyn Fn(&mut Files)| {
        let mut files = files.clone();
        change(&mut files);
        Folder::from_files(files).expect_err("damaged").to_string()
    };
    let whole = files["model.safetensors"].len();
    for length in [0, 7, 8, 100, whole - 1] {
        let error = error(&|files| {
            files.get_mut("model.safetensors").expect("there").truncate(length);
        });
        assert!(error.starts_with("model.safetensors: "), "{length} bytes: {error}");
    }
    let longer = error(&|files| files.get_mut("model.safetensors").expect("there").push(0));
    assert!(longer.contains("bytes"), "{longer}");
    let huge = error(&|files| {
        files.get_mut("model.safetensors").expect("there")[..8].fill(0xff);
    });
    assert!(huge.starts_with("model.safetensors: "), "{huge}");
    for name in ["model.safetensors", "config.json"] {
        let error = error(&|files| {
            files.remove(name);
        });
        assert!(error.starts_with(name) && error.contains("there is none"), "{error}");
    }
}
