//! `evenkeel convert`

use evenkeel::gguf;
use evenkeel::hugging_face::{Folder, SafetensorsFile};
use evenkeel::text::{ChatOptions, Conversation, Tokenizer};

use crate::programs::{Place, succeed};
use crate::tiny_model::{write_gguf, write_model};
use crate::{refuse, support};

const NAME: &str = "evenkeel convert";

#[test]
fn a_gguf_file_becomes_a_folder() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    write_model(&gpu, &place);
    let (model, out) = (write_gguf(&place), place.path("folder"));
    succeed(NAME, &[&model, "--out", &out]);
    let (file, folder) = (gguf::File::open(&model).expect("a file"), Folder::open(&out));
    assert_eq!(folder.expect("a folder").config().gpt, file.config().gpt);

    let described = file.tokenizer().expect("sound").expect("there");
    let was = Tokenizer::from_gguf(&described).expect("a tokenizer");
    let is = Tokenizer::open(&out).expect("a tokenizer");
    assert_eq!(is.special(), was.special());
    let text = "The keel keeps 12 boats even;\n  it's wet. <|im_end|>é";
    assert_eq!(is.encode(text, true).expect("ids"), was.encode(text, true).expect("ids"));
    let chat = Conversation::new().with("user", "What keels?");
    let render = |tokenizer: &Tokenizer| tokenizer.render_chat(&chat, &ChatOptions::default());
    assert_eq!(render(&is).expect("a text"), render(&was).expect("a text"));

    // Both say the same.
    let says = |model: &str| {
        let own = ["--model", model, "-p", "keel", "--max-tokens", "8", "--temp", "1", "--quiet"];
        succeed("evenkeel generate", &own)
    };
    assert_eq!(says(&model), says(&out));
}

#[test]
fn a_folder_gets_another_type() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, out) = (write_model(&gpu, &place), place.path("half"));
    succeed(NAME, &[&model, "--out", &out, "--dtype", "f16"]);
    let [was, is] = ["model", "half"].map(|folder| {
        SafetensorsFile::open(place.path(&format!("{folder}/model.safetensors"))).expect("a file")
    });
    assert_eq!(was.tensors().len(), is.tensors().len());
    for (wide, half) in was.tensors().iter().zip(is.tensors()) {
        assert_eq!((&wide.name, &wide.shape), (&half.name, &half.shape));
        let numbers: Vec<f32> =
            bytemuck::pod_collect_to_vec(&was.read(wide, 0..wide.bytes()).expect("numbers"));
        let rounded = numbers.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes());
        let found = is.read(half, 0..half.bytes()).expect("numbers");
        assert!(rounded.eq(found), "{}", wide.name);
    }
    assert_eq!(place.read("half/tokenizer.json"), place.read("model/tokenizer.json"));
    // Without a type a folder keeps its own.
    let again = place.path("again");
    succeed(NAME, &[&out, "--out", &again]);
    let [was, is] = ["half", "again"].map(|folder| {
        std::fs::read(place.path(&format!("{folder}/model.safetensors"))).expect("read")
    });
    assert_eq!(was, is);
}

#[test]
fn what_cannot_be_converted_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, out, missing) =
        (write_model(&gpu, &place), place.path("out"), place.path("missing"));
    let bad = place.write("bad.gguf", b"GGUFxxxx");
    refuse(NAME, &[&missing, "--out", &out], &[&missing, "there is no folder"]);
    refuse(NAME, &[&bad, "--out", &out], &["bad.gguf"]);
    refuse(NAME, &[&model, "--out", &model], &["this is what is read", "--out"]);
    for quantize in [&["--quantize"][..], &["--quantize", "q4_0"]] {
        let own = [&[&*model, "--out", &out], quantize].concat();
        refuse(NAME, &own, &["blocks of 4 or 8 bits", "llama-quantize"]);
    }
    assert!(!std::path::Path::new(&out).exists());
}
