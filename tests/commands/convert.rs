//! `evenkeel convert`

use evenkeel::gguf;
use evenkeel::hugging_face::{Folder, SafetensorsFile};
use evenkeel::text::{ChatOptions, Conversation, Tokenizer};

use crate::programs::{Place, succeed};
use crate::tiny_model::{write_gguf, write_model};
use crate::{refuse, refuse_usage, support};

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
    let quantized = [&*model, "--out", &out, "--quantize", "q4_0"];
    refuse(NAME, &quantized, &["Q4_0 in a folder", "--out", ".gguf"]);
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn a_folder_becomes_a_gguf_file() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, out) = (write_model(&gpu, &place), place.path("deep/out.gguf"));
    let text = succeed(NAME, &[&model, "--out", &out]);
    assert!(text.contains("wrote ") && text.contains(&out), "{text}");

    // It says what the folder says.
    let says = |model: &str| {
        let own = ["--model", model, "-p", "the keel", "--max-tokens", "8", "--quiet"];
        // Without a penalty a model that knows nothing says its last token again.
        let more = ["--ignore-chat-template", "--repetition-penalty", "64"];
        // Which ends a text of a GGUF file by its name alone.
        let end = ["--extra-eos-token", "<|endoftext|>"];
        succeed("evenkeel generate", &[&own[..], &more, &end].concat())
    };
    let said = says(&model);
    assert!(said.trim().len() > 3, "{said:?}");
    assert_eq!(says(&out), said);

    // And back again it is the folder, chat template and all.
    let again = place.path("again");
    succeed(NAME, &[&out, "--out", &again]);
    let [was, is] = ["model", "again"].map(|folder| {
        SafetensorsFile::open(place.path(&format!("{folder}/model.safetensors"))).expect("a file")
    });
    assert_eq!(was.tensors().len(), is.tensors().len());
    for (was_tensor, is_tensor) in was.tensors().iter().zip(is.tensors()) {
        let name = &was_tensor.name;
        assert_eq!((name, &was_tensor.shape), (&is_tensor.name, &is_tensor.shape));
        let was = was.read(was_tensor, 0..was_tensor.bytes()).expect("numbers");
        assert!(was == is.read(is_tensor, 0..is_tensor.bytes()).expect("numbers"), "{name}");
    }
    let [was, is] = [&model, &again].map(|folder| Tokenizer::open(folder).expect("a tokenizer"));
    let chat = Conversation::new().with("user", "What keels?");
    let render = |tokenizer: &Tokenizer| tokenizer.render_chat(&chat, &ChatOptions::default());
    assert_eq!(render(&is).expect("a text"), render(&was).expect("a text"));
}

#[test]
fn a_gguf_file_is_quantized() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, plain) = (write_model(&gpu, &place), place.path("plain.gguf"));
    succeed(NAME, &[&model, "--out", &plain]);
    for (option, value, format) in [
        ("--quantize", "q8_0", gguf::Format::Q8_0),
        ("--quantize", "Q4_0", gguf::Format::Q4_0),
        ("--dtype", "bf16", gguf::Format::Bf16),
    ] {
        let out = place.path(&format!("{value}.gguf"));
        // Of a file as of a folder.
        let same = place.path(&format!("same-{value}.gguf"));
        succeed(NAME, &[&model, "--out", &out, option, value]);
        succeed(NAME, &[&plain, "--out", &same, option, value]);
        let file = gguf::File::open(&out).expect("a file");
        assert_eq!(file.tensors()["blk.0.ffn_down.weight"].format(), format);
        assert_eq!(file.tensors()["blk.0.ffn_norm.weight"].format(), gguf::Format::F32);
        let other = gguf::File::open(&same).expect("a file");
        assert_eq!(other.metadata(), file.metadata());
        let read = |path: &str| std::fs::read(path).expect("read");
        assert!(read(&out) == read(&same), "{value}");
        let own = ["--model", &out, "-p", "keel", "--max-tokens", "2", "--quiet"];
        succeed("evenkeel generate", &own);
    }
}

#[test]
fn what_no_gguf_file_can_be_made_of_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let place = Place::new();
    let (model, out) = (write_model(&gpu, &place), place.path("out.gguf"));
    refuse_usage(NAME, &[&model, "--out", &out, "--quantize", "q5_k"]);
    refuse_usage(NAME, &[&model, "--out", &out, "--quantize", "q8_0", "--dtype", "f16"]);
    let folder = place.path("folder.gguf");
    std::fs::create_dir(&folder).expect("made");
    refuse(NAME, &[&model, "--out", &folder], &["folder.gguf", "this is a folder", "--out"]);
    let there = place.write("there.gguf", b"a file");
    refuse(NAME, &[&model, "--out", &there], &["there is such a file", "--overwrite"]);
    succeed(NAME, &[&model, "--out", &there, "--overwrite"]);
    refuse(NAME, &[&there, "--out", &there, "--overwrite"], &["this is what is read"]);
    let file = place.write("file", b"a file");
    let beside = place.path("file/out.gguf");
    refuse(NAME, &[&model, "--out", &beside], &[&file, "cannot be written", "--out"]);

    // A tokenizer that such a file cannot say.
    let json = place.read("model/tokenizer.json");
    let other = json.replace("\"add_prefix_space\":false", "\"add_prefix_space\":true");
    let other = other.replace("\"add_prefix_space\": false", "\"add_prefix_space\": true");
    assert_ne!(other, json);
    place.write("model/tokenizer.json", other.as_bytes());
    refuse(NAME, &[&model, "--out", &out], &["add_prefix_space", "convert_hf_to_gguf.py"]);
    assert!(!std::path::Path::new(&out).exists());
}
