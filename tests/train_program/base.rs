//! Runs that go on with a model that is there.

use std::fs;

use evenkeel::hugging_face::Folder;
use evenkeel::text::Tokenizer;
use safetensors::SafeTensors;

use crate::programs::Place;
use crate::tiny_model::{write_gguf, write_model};
use crate::{TRAIN, losses, programs, refuse, support};

fn tensors(place: &Place, name: &str) -> Vec<(String, Vec<f32>)> {
    let bytes = fs::read(place.path(name)).expect("a model");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors").tensors();
    let mut tensors: Vec<_> = tensors
        .into_iter()
        .map(|(name, view)| (name, bytemuck::pod_collect_to_vec(view.data())))
        .collect();
    tensors.sort_by(|a: &(String, Vec<f32>), b| a.0.cmp(&b.0));
    tensors
}

#[test]
fn a_folder_and_a_file_of_llama_cpp_go_on() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let folder = write_model(&gpu, &place);
    let (gguf, data) = (write_gguf(&place), place.path("text.txt"));
    let before = tensors(&place, "model/model.safetensors");
    for (name, model) in [("folder", &folder), ("gguf", &gguf)] {
        let out = place.path(name);
        let run = ["--steps", "12", "--lr", "0.01", "--batch", "4", "--context", "32"];
        let own = ["--model", model, "--data", &data, "--out", &out, "--sample", "4"];
        let text = programs::succeed(TRAIN, &[&own[..], &run].concat());
        assert!(text.contains("tokens of the model"), "{text}");
        let losses = losses(&place, name);
        assert!(losses[11] < losses[0] - 0.5, "{losses:?}");
        // All weights have moved.
        let after = tensors(&place, &format!("{name}/model/model.safetensors"));
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert!(before.0 == after.0 && before.1 != after.1, "{}", before.0);
        }
        let out = place.path(&format!("{name}/model"));
        let tokenizer = Tokenizer::open(&out).expect("a tokenizer");
        tokenizer.check(&Folder::open(&out).expect("a folder").config().gpt).expect("they fit");
        assert_eq!(tokenizer.special().eos, Some(2));
    }

    // The run has all that it needs of the model.
    fs::rename(&folder, place.path("elsewhere")).expect("moved");
    let out = place.path("folder");
    programs::succeed(TRAIN, &["--resume", &out, "--steps", "14", "--sample", "0"]);
    assert_eq!(losses(&place, "folder").len(), 14);
}

#[test]
fn what_does_not_fit_a_model_is_refused() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let folder = write_model(&gpu, &place);
    let (data, out) = (place.path("text.txt"), place.path("out"));
    let given = |more: &[&str]| -> Vec<String> {
        let own = ["--model", &folder, "--data", &data, "--out", &out];
        own.iter().chain(more).map(|one| (*one).to_owned()).collect()
    };
    refuse(&given(&["--width", "32"]), 3, &["width with --model", "has its form"]);
    refuse(&given(&["--tokenizer", "bytes"]), 3, &["--tokenizer bytes with --model"]);
    refuse(&given(&["--context", "500"]), 3, &["--context", "128 positions"]);
    let none = place.path("none");
    let all = ["--model", &none, "--data", &data, "--out", &out].map(str::to_owned);
    refuse(&all, 3, &["none", "there is no folder"]);
}
