//! PEFT's folders into parameters and back, and adapters merged into their models.

use std::collections::BTreeMap;

use evenkeel::hugging_face::{Adapter, AdapterExport, Config, Export, Family, Folder};
use evenkeel::nn::lora::is_adapter;
use evenkeel::nn::{GptConfig, Lora, Targets};
use evenkeel::plan::Parameters;
use evenkeel::{Gpu, Precision};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::models::*;
use super::peft::{FIXTURES, Fixture};
use super::support::{self, Tolerance, assert_close, block_on, values, wide};

pub type Files = BTreeMap<String, Vec<u8>>;

/// A tensor: name, shape, values.
type Named = (String, Vec<usize>, Vec<f32>);

const CONFIG: &str = "adapter_config.json";
const MODEL: &str = "adapter_model.safetensors";

/// Names, types, shapes and bytes of a file of tensors.
fn contents(file: &[u8]) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let tensors = SafeTensors::deserialize(file).expect("a safetensors file");
    let entry = |(name, view): (String, TensorView<'_>)| {
        (name, (view.dtype().to_string(), view.shape().to_vec(), view.data().to_vec()))
    };
    tensors.tensors().into_iter().map(entry).collect()
}

/// A file with these f32 tensors.
fn file(tensors: &[(&str, &[usize], Vec<f32>)]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., v)| v.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes);
        (name.to_string(), view.expect("as many numbers as the shape says"))
    });
    safetensors::serialize(views, None).expect("serialized")
}

/// The parameters of a model with an adapter, as they start, then both as they were loaded.
pub fn loaded(gpu: &Gpu, folder: &Folder, adapter: &Adapter) -> Parameters {
    let parameters = parameters(gpu, &adapter.gpt(), 1);
    block_on(parameters.load(&mut folder.reader(|_| {}))).unwrap_or_else(|e| panic!("{e}"));
    block_on(parameters.load(&mut adapter.reader())).unwrap_or_else(|e| panic!("{e}"));
    parameters
}

pub fn adapters_come_back_bit_by_bit() {
    let Some(gpu) = support::gpu() else { return };
    for fixture in &FIXTURES {
        let Fixture { name, folder, adapter, files, .. } = fixture.open();
        let parameters = loaded(&gpu, &folder, &adapter);
        let written = block_on(adapter.export().to_files(&parameters)).expect("written");
        assert!(written[CONFIG] == files[CONFIG], "{name}");
        assert!(contents(&written[MODEL]) == contents(&files[MODEL]), "{name}");
        // The model beside it has not changed, but where the file has a part of it.
        let base = super::models::parameters(&gpu, &folder.config().gpt, 2);
        block_on(base.load(&mut folder.reader(|_| {}))).expect("loaded");
        for name in base.names() {
            assert_eq!(bits(&read(&parameters, name)), bits(&read(&base, name)), "{name}");
        }
        // In another type, rounded.
        let export = adapter.export().precision(Precision::Bf16);
        let rounded = block_on(export.to_files(&parameters)).expect("written");
        assert!(contents(&rounded[MODEL]).values().all(|(dtype, ..)| dtype == "BF16"));
        let again = Adapter::from_files(rounded.clone(), folder.config()).expect("an adapter");
        let parameters = loaded(&gpu, &folder, &again);
        let written = block_on(again.export().to_files(&parameters)).expect("written");
        assert!(contents(&written[MODEL]) == contents(&rounded[MODEL]), "{name}");
    }
}

/// A configuration of this family for a model.
fn config(family: Family, gpt: GptConfig) -> Config {
    Config::new(family, gpt).unwrap_or_else(|error| panic!("{error}"))
}

pub fn of_family(config_of: &GptConfig) -> Config {
    let is_gpt2 = config_of.positions == evenkeel::nn::Positions::Learned;
    config(if is_gpt2 { Family::Gpt2 } else { Family::Llama }, without(config_of))
}

pub fn adapters_of_no_folder_are_opened_again() {
    let Some(gpu) = support::gpu() else { return };
    for (what, gpt) in all() {
        // No model of these families has a GELU of another kind.
        let gpt = GptConfig {
            feed_forward: if gpt.rms_norm { llama() } else { gpt2() }.feed_forward,
            ..gpt
        };
        let lora = Lora { dropout: 0.25, ..gpt.lora.clone().expect("adapted") };
        let base = of_family(&gpt);
        let parameters = parameters(&gpu, &gpt, 1);
        enlarge(&parameters);
        let export = AdapterExport::new(&base, lora.clone()).expect("an adapter");
        let files =
            block_on(export.base_model("some/model").to_files(&parameters)).expect("written");
        let text = String::from_utf8(files[CONFIG].clone()).expect("text");
        assert!(text.contains("\"peft_type\": \"LORA\""), "{what}: {text}");
        assert!(text.contains("\"base_model_name_or_path\": \"some/model\""), "{what}: {text}");
        let is_transposed = base.family() == Family::Gpt2;
        assert!(text.contains(&format!("\"fan_in_fan_out\": {is_transposed}")), "{what}: {text}");
        let adapter = Adapter::from_files(files.clone(), &base).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(*adapter.lora(), lora, "{what}");
        let other = super::models::parameters(&gpu, &gpt, 9);
        block_on(other.load(&mut adapter.reader())).unwrap_or_else(|e| panic!("{what}: {e}"));
        for name in parameters.names().filter(|name| is_adapter(name)) {
            assert_eq!(bits(&read(&other, name)), bits(&read(&parameters, name)), "{what}: {name}");
        }
        let again = block_on(adapter.export().to_files(&other)).expect("written");
        assert!(again == files, "{what}");
        let error = AdapterExport::new(&base, Lora::new(0, 1.0, Targets::AllLinear));
        assert!(error.expect_err("no rank").to_string().contains("lora rank"), "{what}");
    }
}

/// With another value of a field: of those with one name, the last counts.
fn edited(files: &Files, field: &str, value: &str) -> Files {
    let mut files = files.clone();
    let text = files.get_mut(CONFIG).expect("there");
    assert_eq!(text.pop(), Some(b'}'));
    text.extend(format!(",\"{field}\": {value}}}").into_bytes());
    files
}

pub fn fields_that_ask_for_what_is_not_here_are_named() {
    let Fixture { folder, files, .. } = FIXTURES[0].open();
    let open = |files: Files| Adapter::from_files(files, folder.config());
    for (name, value, message) in [
        ("peft_type", r#""IA3""#, "peft_type is \"IA3\", and only LORA"),
        ("task_type", r#""SEQ_CLS""#, "task_type is \"SEQ_CLS\", and only \"CAUSAL_LM\""),
        ("bias", r#""all""#, "bias is \"all\", and only \"none\""),
        ("lora_bias", "true", "lora_bias is true, which is not supported"),
        ("modules_to_save", r#"["lm_head"]"#, "modules_to_save is [\"lm_head\"], which is not"),
        ("rank_pattern", r#"{"q_proj": 8}"#, "rank_pattern is {\"q_proj\":8}, which is not"),
        ("alpha_pattern", r#"{"q_proj": 8}"#, "alpha_pattern is {\"q_proj\":8}, which is not"),
        ("layer_replication", "[[0, 1]]", "layer_replication is [[0,1]], which is not"),
        ("use_qalora", "true", "use_qalora is true, which is not supported"),
        ("init_lora_weights", r#""pissa""#, "init_lora_weights is \"pissa\", and only true"),
        ("trainable_token_indices", "[1]", "trainable_token_indices is [1], which is not"),
        ("target_parameters", r#"["w"]"#, "target_parameters is [\"w\"], which is not"),
        ("use_magic", "1", "use_magic is 1, which is not known here"),
        ("r", "0", "lora rank is 0"),
        ("r", "null", "r is null"),
        ("r", r#""4""#, "r is \"4\", not a count"),
        ("lora_alpha", r#""a""#, "lora_alpha is \"a\", not a number"),
        ("target_modules", "null", "target_modules is null"),
        ("target_modules", r#"["fc1"]"#, "lora targets is fc1"),
        ("target_modules", r#""(?i)q""#, "lora targets is (?i)q, but must be a regular"),
        ("layers_to_transform", "[7]", "lora layers is Some([7])"),
        ("layers_to_transform", r#""0""#, "layers_to_transform is \"0\", not numbers"),
        ("use_dora", r#""yes""#, "use_dora is \"yes\", not true or false"),
    ] {
        let changed = edited(&files, name, value);
        let error = open(changed).expect_err(message).to_string();
        assert!(error.contains(CONFIG) && error.contains(message), "{error}\nnot {message}");
    }
    // What changes nothing is kept.
    let mut changed = files.clone();
    for (name, value) in [
        ("inference_mode", "false"),
        ("peft_version", r#""0.9.0""#),
        ("loftq_config", "{}"),
        ("init_lora_weights", r#""gaussian""#),
        ("layers_to_transform", "1"),
        ("revision", r#""main""#),
    ] {
        changed = edited(&changed, name, value);
    }
    let error = open(changed).expect_err("tensors of both layers are there").to_string();
    assert!(
        error.contains("layers.0.self_attn.q_proj.lora_A.weight [4, 24] is not known"),
        "{error}"
    );
}

pub fn tensors_that_do_not_belong_are_named() {
    let Some(gpu) = support::gpu() else { return };
    let Fixture { folder, files, adapter, .. } = FIXTURES[0].open();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let change = |change: &dyn Fn(&mut Vec<Named>)| {
        let all = contents(&files[MODEL]);
        let mut tensors: Vec<_> = all
            .into_iter()
            .map(|(name, (_, shape, bytes))| {
                (name, shape, bytemuck::pod_collect_to_vec::<u8, f32>(&bytes))
            })
            .collect();
        change(&mut tensors);
        let tensors: Vec<_> = tensors.iter().map(|(n, s, v)| (&**n, &**s, v.clone())).collect();
        let mut files = files.clone();
        files.insert(MODEL.to_owned(), file(&tensors));
        Adapter::from_files(files, folder.config())
    };
    let missing = change(&|all| all.retain(|(n, ..)| n != name)).expect_err("missing").to_string();
    assert!(missing.contains(&format!("{name} [4, 24] is missing")), "{missing}");
    let other = change(&|all| all.push(("x.lora_A.weight".into(), vec![1], vec![1.0])));
    let other = other.expect_err("not known").to_string();
    assert!(other.contains("x.lora_A.weight [1] is not known"), "{other}");
    let wide = change(&|all| {
        let (_, shape, values) = all.iter_mut().find(|(n, ..)| n == name).expect("there");
        *shape = vec![8, 12];
        assert_eq!(values.len(), 96);
    });
    let wide = wide.expect_err("another shape").to_string();
    assert!(wide.contains(&format!("{name} has the shape [8, 12], and the model wants [4, 24]")));
    let infinite = change(&|all| {
        let (_, _, values) = all.iter_mut().find(|(n, ..)| n == name).expect("there");
        values[5] = f32::INFINITY;
    });
    let parameters = loaded(&gpu, &folder, &adapter);
    let before: Vec<_> = parameters.names().map(|n| bits(&read(&parameters, n))).collect();
    let infinite = infinite.expect("numbers are read later");
    let error = block_on(parameters.load(&mut infinite.reader())).expect_err("not finite");
    assert!(error.to_string().contains(&format!("{name} holds inf at index 5")), "{error}");
    let after: Vec<_> = parameters.names().map(|n| bits(&read(&parameters, n))).collect();
    assert!(before == after, "nothing has changed");
    // Parameters of another adapter.
    let lora = Lora::new(4, 1.0, Targets::named(["q_proj"]));
    let gpt = GptConfig { lora: Some(lora), ..folder.config().gpt.clone() };
    let fewer = super::models::parameters(&gpu, &gpt, 1);
    let error = block_on(fewer.load(&mut adapter.reader())).expect_err("fewer").to_string();
    assert!(
        error.contains("there is no parameter blocks.0.attention.qkv.lora_A [8, 24]"),
        "{error}"
    );
    let error = block_on(adapter.export().to_files(&fewer)).expect_err("fewer").to_string();
    assert!(error.contains("there is no parameter blocks.0.mlp.gate_up.up_proj.lora_B"), "{error}");
    // The model alone is not written by chance.
    let error = block_on(folder.export().to_files(&parameters)).expect_err("both").to_string();
    assert!(error.contains("there are adapters"), "{error}");
    for name in [CONFIG, MODEL] {
        let mut files = files.clone();
        files.remove(name);
        let error = Adapter::from_files(files, folder.config()).expect_err("missing").to_string();
        assert!(error.contains(name) && error.contains("there is none"), "{error}");
    }
}

/// PEFT writes the weights of an adapted embedding too, and takes them when it reads the adapter.
pub fn weights_beside_an_adapted_embedding_are_taken() {
    let Some(gpu) = support::gpu() else { return };
    let fixture = FIXTURES.iter().find(|fixture| fixture.name == "mistral_ends").expect("there");
    let Fixture { folder, files, .. } = fixture.open();
    let name = "base_model.model.model.embed_tokens.base_layer.weight";
    let mut tensors: Vec<_> = contents(&files[MODEL]).into_iter().collect();
    let mut changed = Vec::new();
    for (found, (_, _, bytes)) in &mut tensors {
        let mut all: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[..]);
        if found == name {
            all = values(3, all.len());
            changed.clone_from(&all);
        }
        *bytes = all.iter().flat_map(|x| x.to_le_bytes()).collect();
    }
    assert!(!changed.is_empty(), "it is there");
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(n, (_, shape, bytes))| (&**n, &**shape, bytemuck::pod_collect_to_vec(&bytes[..])))
        .collect();
    let mut files = files;
    files.insert(MODEL.to_owned(), file(&tensors));
    let adapter = Adapter::from_files(files.clone(), folder.config()).expect("an adapter");
    let parameters = loaded(&gpu, &folder, &adapter);
    assert_eq!(read(&parameters, "token_embedding.weight"), changed);
    let written = block_on(adapter.export().to_files(&parameters)).expect("written");
    assert!(contents(&written[MODEL]) == contents(&files[MODEL]));
}

pub fn merged_models_compute_the_same() {
    let Some(gpu) = support::gpu() else { return };
    let batch = batch(1);
    for (what, gpt) in all().into_iter().filter(|(what, _)| *what != "a tied head") {
        let mut gpt = GptConfig {
            feed_forward: if gpt.rms_norm { llama() } else { gpt2() }.feed_forward,
            ..gpt
        };
        if what == "whole weights with magnitudes" {
            gpt.tied_head = false;
        }
        let lora = gpt.lora.clone().expect("adapted");
        let parameters = parameters(&gpu, &gpt, 1);
        enlarge(&parameters);
        let expected = logits(&gpu, &parameters, &gpt, &batch);
        let export = Export::new(of_family(&gpt), Precision::F32).merged(&lora);
        let files =
            block_on(export.to_files(&parameters)).unwrap_or_else(|e| panic!("{what}: {e}"));
        let folder = Folder::from_files(files).unwrap_or_else(|error| panic!("{error}"));
        let merged = super::models::parameters(&gpu, &without(&gpt), 7);
        block_on(merged.load(&mut folder.reader(|_| {}))).expect("loaded");
        let found = logits(&gpu, &merged, &without(&gpt), &batch);
        let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let rounding = Tolerance {
            absolute: 2e-5 * f64::from(largest),
            relative: 0.0,
            because: "rounding of each weight once, and of sums in another order",
        };
        assert_close(what, &found, &wide(&expected), rounding);
        // It is another model than without the adapter.
        let base = super::models::parameters(&gpu, &without(&gpt), 7);
        for name in base.names() {
            base.write(name, &read(&parameters, name)).expect("written");
        }
        let plain = logits(&gpu, &base, &without(&gpt), &batch);
        let apart = plain.iter().zip(&expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(apart > 0.05 * largest, "{what}: {apart} of {largest}");
    }
}

pub fn what_cannot_be_merged_is_named() {
    let Some(gpu) = support::gpu() else { return };
    let (_, gpt) = all().into_iter().find(|(what, _)| *what == "a tied head").expect("there");
    let parameters = parameters(&gpu, &gpt, 1);
    let export = Export::new(of_family(&gpt), Precision::F32);
    let merged = export.clone().merged(gpt.lora.as_ref().expect("adapted"));
    let error = block_on(merged.to_files(&parameters)).expect_err("tied").to_string();
    assert!(error.contains("transformer.wte: the weight of embedding and head is one"), "{error}");
    let other = Lora::new(4, 1.0, Targets::named(["c_fc"]));
    let error = block_on(export.merged(&other).to_files(&parameters)).expect_err("another");
    let error = error.to_string();
    assert!(error.contains("there is no parameter blocks.0.mlp.up.lora_A"), "{error}");
}
