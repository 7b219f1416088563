//! Models that are written as GGUF files: read again they are the same, and where llama.cpp's
//! converter is followed by hand, so are the files.

use std::collections::BTreeMap;

use evenkeel::gguf::{Export, File, Format, TokenKind, Tokenizer};
use evenkeel::hugging_face::{Config, Family, Folder};
use evenkeel::kernel::BlockFormat;
use evenkeel::nn::{FeedForwardKind, Gpt, GptConfig, LayerKind, Positions, Rotary, RotaryScaling};
use evenkeel::plan::Parameters;
use evenkeel::{Gpu, Precision};
use safetensors::Dtype;

use super::blocks::bits;
use super::converted::{config_of, converted, metadata, moderate, open};
use super::folders::{self, Files, all_bits, parameters};
use super::models;
use super::same_models::{loaded, logits};
use super::support::{self, block_on};
use super::tensors;

fn written(export: &Export, parameters: &Parameters) -> File {
    let bytes = block_on(export.to_bytes(parameters)).unwrap_or_else(|error| panic!("{error}"));
    File::from_bytes("written.gguf", bytes).unwrap_or_else(|error| panic!("{error}"))
}

/// Why a model is not written.
#[track_caller]
fn refused(export: &Export, parameters: &Parameters, parts: &[&str]) {
    let error = block_on(export.to_bytes(parameters)).expect_err("refused").to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error} without {parts:?}");
}

fn all_numbers(file: &File, name: &str) -> Vec<u32> {
    let count = file.tensors()[name].count();
    bits(&file.numbers(name, 0..count).expect("in the file"))
}

pub fn files_are_those_of_the_converter() {
    let Some(gpu) = support::gpu() else { return };
    for model in models::ALL.into_iter().filter(|&model| model != models::MISTRAL) {
        let tensors = moderate(model);
        let folder = folders::open(tensors::folder(&config_of(model), &tensors));
        let ours = folders::loaded(&gpu, &folder);
        let (is, was) = (
            written(&Export::new(folder.config().clone()), &ours),
            open(&converted(model, &tensors)),
        );
        let family = folder.config().family();
        assert!(is.tensors().keys().eq(was.tensors().keys()), "{family}");
        for (name, info) in was.tensors() {
            assert_eq!(is.tensors()[name].shape(), info.shape(), "{family}: {name}");
            assert_eq!(all_numbers(&is, name), all_numbers(&was, name), "{family}: {name}");
        }
        for (name, _) in metadata(model) {
            assert_eq!(is.metadata().get(&name), was.metadata().get(&name), "{family}: {name}");
        }
        // Gemma's norms too, whose numbers are such that 1 more is exact.
        assert_eq!(is.config().gpt, folder.config().gpt, "{family}");
        let again = loaded(&gpu, &is);
        assert!(all_bits(&again) == all_bits(&ours), "{family}");
        let of = |config: &Config, parameters: &Parameters| {
            logits(&Gpt::new(config.gpt.clone()).expect("a model"), parameters)
        };
        assert!(of(is.config(), &again) == of(folder.config(), &ours), "{family}");
    }
}

pub fn all_bits_come_back() {
    let Some(gpu) = support::gpu() else { return };
    for model in [models::GPT2, models::LLAMA, models::MISTRAL, models::QWEN2, models::QWEN3] {
        for (dtype, precision) in [
            (Dtype::F32, Precision::F32),
            (Dtype::F16, Precision::F16),
            (Dtype::BF16, Precision::Bf16),
        ] {
            // llama.cpp's Mistral has no window.
            let config = model.replace("\"sliding_window\": 6", "\"sliding_window\": null");
            let folder = folders::open(tensors::folder(&config, &tensors::drawn(model, dtype)));
            assert_eq!(folder.export().common_precision(), Some(precision));
            let ours = folders::loaded(&gpu, &folder);
            let export = Export::new(folder.config().clone()).precision(precision);
            let again = loaded(&gpu, &written(&export, &ours));
            assert!(all_bits(&again) == all_bits(&ours), "{} {dtype}", folder.config().family());
        }
    }
}

/// Folders that transformers wrote.
macro_rules! fixtures {
    ($($family:literal),*) => {
        [$([
            &include_bytes!(concat!("../fixtures/hugging_face/", $family, "/config.json"))[..],
            include_bytes!(concat!("../fixtures/hugging_face/", $family, "/model.safetensors")),
        ]),*]
    };
}

pub fn models_of_transformers_come_back() {
    let Some(gpu) = support::gpu() else { return };
    for [config, model] in
        fixtures!("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
    {
        let names = ["config.json", "model.safetensors"].map(str::to_owned);
        let files = Files::from_iter(names.into_iter().zip([config.to_vec(), model.to_vec()]));
        let folder = Folder::from_files(files).expect("a folder");
        let (family, ours) = (folder.config().family(), folders::loaded(&gpu, &folder));
        // Their settings are such that llama.cpp has not all of them: those change no parameter.
        let mut gpt = folder.config().gpt.clone();
        gpt.attention_scale = None;
        if matches!(family, Family::Mistral | Family::Qwen2) {
            (gpt.window, gpt.layer_kinds) = (None, Vec::new());
        }
        let file = written(&Export::new(folder.config().clone()).gpt(gpt), &ours);
        check_same(&ours, &loaded(&gpu, &file), family);
    }
}

/// Of Gemma's norms what 1 more leaves of them.
fn check_same(ours: &Parameters, again: &Parameters, family: Family) {
    let is_gemma = matches!(family, Family::Gemma2 | Family::Gemma3);
    for name in ours.names() {
        let mut expected = folders::values(ours, name);
        if is_gemma && name.contains("norm") {
            expected.iter_mut().for_each(|x| *x = (*x + 1.0) - 1.0);
        }
        let found = folders::values(again, name);
        assert!(bits(&found) == bits(&expected), "{family}: {name}");
    }
}

/// A Llama whose rows are of 32, but for those of 48 behind its feed-forward part.
fn in_blocks(gpu: &Gpu, tied_head: bool) -> (Config, Parameters) {
    let gpt = GptConfig { hidden: 48, tied_head, ..GptConfig::llama(11, 32, 1, [2, 1], 32) };
    let config = Config::new(Family::Llama, gpt).expect("a Llama");
    let parameters = parameters(gpu, &config.gpt);
    (config, parameters)
}

pub fn matrices_are_written_in_blocks() {
    let Some(gpu) = support::gpu() else { return };
    for tied_head in [true, false] {
        let (config, parameters) = in_blocks(&gpu, tied_head);
        let plain = written(&Export::new(config.clone()), &parameters);
        for format in BlockFormat::ALL {
            let export = Export::new(config.clone()).blocks(format);
            let file = written(&export, &parameters);
            assert_eq!(
                export.not_in_blocks(&parameters).expect("names"),
                ["blk.0.ffn_down.weight"]
            );
            let mut formats = BTreeMap::new();
            for (name, info) in file.tensors() {
                let head = if tied_head { "token_embd.weight" } else { "output.weight" };
                let expected = match &**name {
                    _ if info.shape().len() == 1 => Format::F32,
                    "blk.0.ffn_down.weight" => Format::F16,
                    name if name == head => Format::Q8_0,
                    _ => Format::of_blocks(format),
                };
                assert_eq!(info.format(), expected, "{name}");
                let count = info.count();
                let numbers = plain.numbers(name, 0..count).expect("in the file");
                let expected = match expected.of_weights() {
                    Some(blocks) => blocks.decode(&blocks.encode(&numbers)),
                    None if expected == Format::F16 => {
                        numbers.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect()
                    }
                    None => numbers,
                };
                assert_eq!(all_numbers(&file, name), bits(&expected), "{format}: {name}");
                *formats.entry(info.format().name()).or_insert(0) += 1;
            }
            assert!(formats[format.name()] >= 5, "{formats:?}");
            let u32 = |name: &str| file.metadata()[name].as_u64();
            assert_eq!(u32("general.quantization_version"), Some(2));
            assert!(u32("general.file_type").is_some_and(|number| [2, 3, 7].contains(&number)));
            // Written is what was counted.
            let bytes = block_on(export.to_bytes(&parameters)).expect("written").len();
            assert_eq!(export.bytes(&parameters).expect("a size"), bytes as u64);
        }
    }
}

pub fn tokenizers_are_written() {
    let Some(gpu) = support::gpu() else { return };
    let (config, parameters) = in_blocks(&gpu, true);
    let tokenizer = Tokenizer {
        model: "gpt2".to_owned(),
        pre: Some("qwen2".to_owned()),
        tokens: ["a", "b", "ab", "<|end|>"].map(str::to_owned).to_vec(),
        scores: Vec::new(),
        kinds: vec![TokenKind::Normal, TokenKind::Byte, TokenKind::UserDefined, TokenKind::Control],
        merges: vec!["a b".to_owned()],
        bos: None,
        eos: Some(3),
        eot: Some(1),
        unknown: Some(0),
        padding: Some(3),
        adds_bos: Some(false),
        adds_eos: Some(true),
        adds_space: None,
        chat_template: Some("{{ 'ü' }}".to_owned()),
    };
    let export = Export::new(config.clone()).tokenizer(tokenizer.clone());
    let mut found = written(&export, &parameters).tokenizer().expect("sound").expect("there");
    // A token for each row of the model.
    assert_eq!(
        found.tokens.split_off(4),
        (4..11).map(|id| format!("[PAD{id}]")).collect::<Vec<_>>()
    );
    assert_eq!(found.kinds.split_off(4), [TokenKind::Unused; 7]);
    assert_eq!(found, tokenizer);
    let tokens = (0..12).map(|id| id.to_string()).collect();
    let many = Tokenizer { tokens, kinds: Vec::new(), ..tokenizer };
    let export = Export::new(config).tokenizer(many);
    refused(&export, &parameters, &["12 tokens", "a row for 11"]);
}

pub fn what_llama_cpp_does_not_have_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let refuse = |model: &str, change: &dyn Fn(&mut GptConfig), parts: &[&str]| {
        let mut config = Config::from_json(model).expect("a configuration");
        change(&mut config.gpt);
        let parameters = parameters(&gpu, &config.gpt);
        refused(&Export::new(config), &parameters, parts);
    };
    let same = |_: &mut GptConfig| {};
    refuse(models::GEMMA2, &same, &["gemma2 have not", "attention_scale"]);
    refuse(models::MISTRAL, &same, &["sees 6 of 32", "max_position_embeddings"]);
    let gelu = models::GPT2.replace("gelu_new", "gelu");
    refuse(&gelu, &same, &["gpt2 have not", "feed_forward Gelu"]);
    let slides = |gpt: &mut GptConfig| {
        (gpt.window, gpt.layer_kinds) = (Some(5), vec![LayerKind::Full, LayerKind::Sliding]);
    };
    refuse(models::QWEN2, &slides, &["qwen2 have not", "window Some(5) in layer 1"]);
    let scaled = |gpt: &mut GptConfig| {
        let Positions::Rotary(Rotary { scaling, .. }) = &mut gpt.positions else { return };
        if let RotaryScaling::Llama3 { high_freq_factor, .. } = scaling {
            *high_freq_factor = 3.0;
        }
    };
    refuse(models::LLAMA, &scaled, &["rope_freqs.weight", "high_freq_factor 4"]);
    let base = |gpt: &mut GptConfig| gpt.positions = Positions::Rotary(Rotary::new(123_456_789.1));
    refuse(models::QWEN3, &base, &["qwen3 have not", "positions"]);
    let head = |gpt: &mut GptConfig| (gpt.tied_head, gpt.attention_scale) = (false, None);
    refuse(models::GEMMA2, &head, &["gemma2 has its embedding for a head"]);
    let gelu = |gpt: &mut GptConfig| gpt.feed_forward = FeedForwardKind::GeGlu;
    refuse(models::SMOLLM, &gelu, &["llama have not", "GeGlu"]);

    let (config, parameters) = in_blocks(&gpu, false);
    let export = Export::new(config.clone());
    let name = "blocks.0.attention.projection.weight";
    let fill = |value: f32| parameters.write(name, &[value; 32 * 32]).expect("written");
    fill(7e4);
    let half = export.clone().precision(Precision::F16);
    refused(&half, &parameters, &["blk.0.attn_output.weight holds 70000", "F16"]);
    let q4_1 = export.clone().blocks(BlockFormat::Q4_1);
    refused(&q4_1, &parameters, &["blk.0.attn_output.weight holds 70000", "Q4_1"]);
    written(&export, &parameters);
    // Parameters of another model.
    let other = Export::new(Config::from_json(models::LLAMA).expect("a configuration"));
    refused(&other, &parameters, &["there is no parameter blocks.1."]);
}

#[cfg(not(target_arch = "wasm32"))]
#[test]
fn files_are_replaced_whole() {
    let Some(gpu) = support::gpu() else { return };
    let (config, parameters) = in_blocks(&gpu, true);
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("a.gguf");
    std::fs::write(&path, b"old").expect("written");
    let export = Export::new(config);
    let mut heard = Vec::new();
    let stopped = block_on(export.save_with(&parameters, &path, |written, total| {
        heard.push((written, total));
        let reason = "enough".to_owned();
        let error = evenkeel::Error::File { path: path.clone(), reason };
        if heard.len() == 3 { Err(error) } else { Ok(()) }
    }));
    assert!(stopped.expect_err("stopped").to_string().contains("enough"));
    assert_eq!(std::fs::read(&path).expect("read"), b"old");
    assert_eq!(std::fs::read_dir(place.path()).expect("a folder").count(), 1);

    let mut last = (0, 1);
    let tell = |written, total| {
        last = (written, total);
        Ok(())
    };
    block_on(export.save_with(&parameters, &path, tell)).expect("saved");
    let contents = std::fs::read(&path).expect("read");
    assert_eq!(last, (contents.len() as u64, contents.len() as u64));
    assert!(contents == block_on(export.to_bytes(&parameters)).expect("written"));
    let file = File::open(&path).expect("a file");
    assert_eq!(file.metadata()["general.type"], evenkeel::gguf::Value::String("model".to_owned()));
}
