//! Which modules have an adapter, what it starts with, and what is refused.

use evenkeel::nn::lora::is_adapter;
use evenkeel::nn::{Gpt, GptConfig, Lora, QkClip, Targets};

use super::models::*;
use super::support;

/// Names of the modules that have an adapter.
fn chosen(config: &GptConfig, lora: &Lora) -> Vec<String> {
    lora.validate(config).unwrap_or_else(|error| panic!("{error}"));
    lora.modules(config).into_iter().map(|module| module.name).collect()
}

fn all_names(targets: Targets, config: &GptConfig) -> Vec<String> {
    chosen(config, &Lora::new(4, 1.0, targets))
}

pub fn targets_choose_modules() {
    let attention = |layer: usize, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("model.layers.{layer}.self_attn.{name}")).collect()
    };
    let config = llama();
    let qv = Lora::new(4, 1.0, Targets::named(["v_proj", "q_proj"]));
    let both = |layer| attention(layer, &["q_proj", "v_proj"]);
    assert_eq!(chosen(&config, &qv), [both(0), both(1)].concat());
    let second = Lora { layers: Some(vec![1]), ..qv.clone() };
    assert_eq!(chosen(&config, &second), both(1));
    let by_pattern = Lora { layers_pattern: vec!["layers".into()], ..second.clone() };
    assert_eq!(chosen(&config, &by_pattern), both(1));
    let excluded = Lora { exclude: Some(Targets::Pattern(r".*\.0\..*".into())), ..qv };
    assert_eq!(chosen(&config, &excluded), both(1));
    let full = Targets::named(["model.layers.0.self_attn.k_proj"]);
    assert_eq!(all_names(full, &config), attention(0, &["k_proj"]));
    let pattern = Targets::Pattern(r"model\.layers\.[01]\.self_attn\.(q|o)_proj|lm_head".into());
    let mut expected = [0, 1].map(|layer| attention(layer, &["q_proj", "o_proj"])).concat();
    expected.push("lm_head".into());
    assert_eq!(all_names(pattern, &config), expected);

    let linear = all_names(Targets::AllLinear, &config);
    assert_eq!(linear.len(), 2 * 7);
    assert!(linear.contains(&"model.layers.1.mlp.gate_proj".to_owned()), "{linear:?}");
    let names = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];
    let of_gpt2 =
        [0, 1].map(|layer| names.map(|name| format!("transformer.h.{layer}.{name}"))).concat();
    assert_eq!(all_names(Targets::AllLinear, &gpt2()), of_gpt2);
    let projections = all_names(Targets::named(["c_proj"]), &gpt2());
    assert_eq!(projections.len(), 4, "of attention and of the feed-forward part");
    assert_eq!(
        all_names(Targets::named(["wte", "lm_head"]), &gpt2()),
        ["transformer.wte", "lm_head"]
    );

    // Where they are in our parameters.
    let modules =
        Lora::new(4, 1.0, Targets::named(["q_proj", "v_proj", "up_proj"])).modules(&config);
    let v = &modules[1];
    assert_eq!((&*v.weight, v.rows.clone()), ("blocks.0.attention.qkv.weight", 48..64));
    assert_eq!((&*v.a, v.a_rows.clone()), ("blocks.0.attention.qkv.lora_A", 4..8));
    assert_eq!(v.b, "blocks.0.attention.qkv.v_proj.lora_B");
    let up = &modules[2];
    assert_eq!((&*up.weight, up.rows.clone()), ("blocks.0.mlp.gate_up.weight", 20..40));
    assert_eq!((&*up.a, up.a_rows.clone()), ("blocks.0.mlp.gate_up.lora_A", 0..4));
    let odd = Lora::new(3, 1.0, Targets::named(["q_proj", "v_proj"])).modules(&config);
    assert_eq!((&*odd[1].a, odd[1].a_rows.clone()), ("blocks.0.attention.qkv.v_proj.lora_A", 0..3));
    let head = &Lora::new(3, 1.0, Targets::named(["lm_head"])).modules(&gpt2())[0];
    assert_eq!((&*head.weight, &*head.a), ("token_embedding.weight", "head.lora_A"));
}

pub fn settings_that_make_no_sense_are_named() {
    let named = |names: &[&str]| Targets::Named(names.iter().map(|&n| n.to_owned()).collect());
    let good = Lora::new(4, 8.0, named(&["q_proj"]));
    let pattern = |text: &str| Targets::Pattern(text.to_owned());
    let cases = [
        (Lora { rank: 0, ..good.clone() }, "lora rank is 0, but must be at least 1"),
        (Lora { alpha: 0.0, ..good.clone() }, "lora alpha is 0, but must be finite and above 0"),
        (Lora { alpha: f64::NAN, ..good.clone() }, "lora alpha is NaN"),
        (Lora { dropout: 1.0, ..good.clone() }, "lora dropout is 1, but must be in [0, 1)"),
        (Lora { targets: named(&["q_proj", "q_prj"]), ..good.clone() }, "lora targets is q_prj"),
        (Lora { targets: named(&["c_attn"]), ..good.clone() }, "lora targets is c_attn"),
        (Lora { targets: named(&["proj"]), ..good.clone() }, "lora targets is proj"),
        (Lora { targets: pattern("(q"), ..good.clone() }, "lora targets is (q"),
        (Lora { targets: pattern("q_proj"), ..good.clone() }, "some module of the model"),
        (Lora { exclude: Some(named(&["q_proj"])), ..good.clone() }, "some module of the model"),
        (Lora { layers: Some(vec![2]), ..good.clone() }, "lora layers is Some([2])"),
        (
            Lora { layers: Some(vec![1]), targets: Targets::AllLinear, ..good.clone() },
            "lora layers is Some([1]), but must be None",
        ),
        (
            Lora { layers_pattern: vec!["layers".into()], ..good.clone() },
            "lora layers_pattern is layers",
        ),
        (
            Lora { dora: true, targets: named(&["q_proj", "embed_tokens"]), ..good.clone() },
            "lora targets is model.embed_tokens, but must be no embedding with DoRA",
        ),
    ];
    for (lora, message) in cases {
        let config = GptConfig { lora: Some(lora), ..llama() };
        let error = Gpt::new(config).expect_err(message).to_string();
        assert!(error.contains(message), "{error}, not {message}");
    }
    let clipped = GptConfig { qk_clip: Some(QkClip::default()), lora: Some(good), ..llama() };
    let error = Gpt::new(clipped).expect_err("refused").to_string();
    assert!(error.contains("qk_clip is Some, but must be None with lora"), "{error}");
}

/// A starts as PyTorch's linear layers do, the same whatever else is adapted; B at 0; and the base is
/// what it is without.
pub fn initial_values_follow_from_names() {
    let Some(gpu) = support::gpu() else { return };
    let base = parameters(&gpu, &llama(), 5);
    let with = |lora: Lora| parameters(&gpu, &GptConfig { lora: Some(lora), ..llama() }, 5);
    let some = with(Lora::new(8, 1.0, Targets::named(["o_proj", "embed_tokens"])));
    let more = with(Lora::new(8, 1.0, Targets::named(["o_proj", "k_proj", "down_proj"])));
    for name in base.names() {
        let expected = bits(&read(&base, name));
        assert_eq!(bits(&read(&some, name)), expected, "{name}");
        assert_eq!(bits(&read(&more, name)), expected, "{name}");
    }
    let name = "blocks.1.attention.projection.lora_A";
    let a = read(&some, name);
    assert_eq!(bits(&a), bits(&read(&more, name)));
    let bound = 1.0 / 32f32.sqrt();
    let largest = a.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    assert!(largest <= bound && largest > 0.95 * bound, "{largest} of {bound}");
    let other = read(&more, "blocks.0.attention.projection.lora_A");
    assert_ne!(bits(&a), bits(&other), "each has its own numbers");
    for name in more.names().filter(|name| name.ends_with("lora_B")) {
        assert!(read(&more, name).iter().all(|&b| b == 0.0), "{name}");
    }
    assert!(read(&some, "token_embedding.lora_A").iter().all(|&a| a == 0.0));
    let b = read(&some, "token_embedding.lora_B");
    let mean_square = b.iter().map(|x| x * x).sum::<f32>() / b.len() as f32;
    assert!((0.7..1.4).contains(&mean_square), "{mean_square}");
    assert_eq!(some.names().filter(|name| is_adapter(name)).count(), 2 * 2 + 2);
}
