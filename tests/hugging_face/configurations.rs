//! What configurations say, what is wrong with them, and how they go back.

use evenkeel::Precision;
use evenkeel::hugging_face::{Config, Family};
use evenkeel::nn::{
    FeedForwardKind, GptConfig, LayerKind, Positions, QkNorm, Rotary, RotaryScaling,
};

use super::models::{self, *};

fn read(text: &str) -> Config {
    Config::from_json(text).unwrap_or_else(|error| panic!("{error}"))
}

fn error(text: &str) -> String {
    match Config::from_json(text) {
        Ok(config) => panic!("read as {config:?}"),
        Err(error) => error.to_string(),
    }
}

/// A configuration with something in the place of something that is in it.
fn with(config: &str, from: &str, to: &str) -> String {
    assert!(config.contains(from), "{from} is not in it");
    config.replacen(from, to, 1)
}

/// A configuration with more fields.
fn and(config: &str, fields: &str) -> String {
    with(config, "{", &format!("{{{fields},"))
}

pub fn tensors_have_the_names_and_shapes_of_transformers() {
    for text in models::ALL.into_iter().chain([GEMMA3_WITH_IMAGES]) {
        let config = read(text);
        let tensors = config.tensors().expect("a model");
        let body = if config.family() == Family::Gpt2 { "transformer." } else { "model." };
        let theirs = tensors.iter().flat_map(|tensor| &tensor.theirs);
        let full = |name: &str| {
            if name.starts_with("lm_head") { name.to_owned() } else { format!("{body}{name}") }
        };
        let mut found: Vec<_> = theirs.map(|t| (full(&t.name), t.shape.clone())).collect();
        let mut expected = models::tensors(text);
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{}", config.family());
        // Each row of each parameter once.
        for tensor in &tensors {
            let rows: Vec<_> = tensor.theirs.iter().flat_map(|t| t.rows.clone()).collect();
            assert_eq!(rows, (0..tensor.shape[0]).collect::<Vec<_>>(), "{}", tensor.name);
        }
    }
}

pub fn gpt2_is_read() {
    let config = read(GPT2);
    assert_eq!(
        (config.family(), config.gpt.clone()),
        (Family::Gpt2, GptConfig::gpt2(11, 16, 2, 2, 8))
    );
    let exact = read(&with(GPT2, "gelu_new", "gelu")).gpt;
    assert_eq!(exact.feed_forward, FeedForwardKind::Gelu);
    let other = read(&and(GPT2, r#""n_inner": 20, "scale_attn_weights": false"#)).gpt;
    assert_eq!((other.hidden, other.attention_scale), (20, Some(1.0)));
    assert!(!read(&and(GPT2, r#""tie_word_embeddings": false"#)).gpt.tied_head);
}

pub fn llama_is_read() {
    let scaling = RotaryScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 16,
    };
    let expected = GptConfig {
        hidden: 12,
        positions: Positions::Rotary(Rotary { base: 500_000.0, scaling }),
        tied_head: true,
        ..GptConfig::llama(11, 64, 2, [2, 1], 16)
    };
    assert_eq!(read(LLAMA).gpt, expected);
    // As transformers 5 has it.
    let old = &LLAMA[LLAMA.find("\"rope_scaling\"").expect("there")..];
    let old = &old[..old.find("\"tie_word").expect("there")];
    let new = r#""rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0,
        "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 16},"#;
    assert_eq!(read(&LLAMA.replace(old, new)).gpt, expected);

    let linear = read(&with(
        SMOLLM,
        r#""rope_scaling": null"#,
        r#""rope_scaling": {"type": "linear", "factor": 2}"#,
    ));
    let scaling = RotaryScaling::Linear { factor: 2.0 };
    let rotary = Positions::Rotary(Rotary { base: 100_000.0, scaling });
    assert_eq!(linear.gpt.positions, rotary);
    let biases = read(&LLAMA.replace("_bias\": false", "_bias\": true")).gpt;
    assert!(biases.bias);
    let alone = read(&with(SMOLLM, "  \"num_key_value_heads\": 1,\n", "")).gpt;
    assert_eq!(alone.kv_heads, 2);
}

pub fn windows_are_read() {
    let mistral = read(MISTRAL).gpt;
    assert_eq!((mistral.window, mistral.layer_kinds.len()), (Some(6), 0));
    let none = with(MISTRAL, "\"sliding_window\": 6", "\"sliding_window\": null");
    assert_eq!(read(&none).gpt.window, None);
    let default = with(MISTRAL, "  \"sliding_window\": 6,\n", "");
    assert_eq!(read(&default).gpt.window, Some(4096));

    assert_eq!(read(QWEN2).gpt.window, None);
    let used = with(QWEN2, "\"use_sliding_window\": false", "\"use_sliding_window\": true");
    let kinds = [LayerKind::Full, LayerKind::Sliding];
    let gpt = read(&used).gpt;
    assert_eq!((gpt.window, &gpt.layer_kinds[..]), (Some(5), &kinds[..]));
    let listed = r#""layer_types": ["sliding_attention", "full_attention"]"#;
    let gpt = read(&and(&used, listed)).gpt;
    assert_eq!(gpt.layer_kinds, [LayerKind::Sliding, LayerKind::Full]);
    // The flag goes before the list.
    assert_eq!(read(&and(QWEN2, listed)).gpt.window, None);
}

pub fn qwen_and_gemma_are_read() {
    let qwen2 = read(QWEN2).gpt;
    assert!(qwen2.qkv_bias && !qwen2.bias && qwen2.tied_head);
    let qwen3 = read(QWEN3).gpt;
    assert_eq!((qwen3.head_dim, qwen3.qk_norm), (Some(16), Some(QkNorm::Rms)));
    assert_eq!((qwen3.qkv_bias, qwen3.norm_weight_offset, qwen3.norm_eps), (false, 0.0, 1e-6));

    let gemma2 = read(GEMMA2).gpt;
    let expected = GptConfig {
        hidden: 12,
        head_dim: Some(16),
        window: Some(4),
        layer_kinds: vec![LayerKind::Sliding, LayerKind::Full, LayerKind::Sliding],
        norm_weight_offset: 1.0,
        post_norms: true,
        feed_forward: FeedForwardKind::GeGlu,
        tied_head: true,
        embedding_scale: Some(4.0),
        attention_scale: Some(1.0 / 3.0),
        soft_cap: Some(50.0),
        logit_soft_cap: Some(30.0),
        norm_eps: 1e-6,
        ..GptConfig::llama(11, 32, 3, [2, 1], 16)
    };
    assert_eq!(gemma2, expected);
    let without =
        with(GEMMA2, "\"attn_logit_softcapping\": 50.0", "\"attn_logit_softcapping\": null");
    assert_eq!(read(&without).gpt.soft_cap, None);

    let scaling = RotaryScaling::Linear { factor: 8.0 };
    let rotary = Rotary { base: 1e6, scaling };
    let gemma3 = read(GEMMA3).gpt;
    let expected = GptConfig {
        positions: Positions::Rotary(rotary),
        window_rotary: Some(Rotary::new(1e4)),
        layers: 2,
        layer_kinds: vec![LayerKind::Sliding, LayerKind::Full],
        attention_scale: None,
        soft_cap: None,
        logit_soft_cap: None,
        qk_norm: Some(QkNorm::Rms),
        ..expected
    };
    assert_eq!(gemma3, expected);
    let with_images = read(GEMMA3_WITH_IMAGES);
    let expected = GptConfig {
        context: 131_072,
        layers: 7,
        heads: 8,
        kv_heads: 4,
        head_dim: Some(8),
        layer_kinds: LayerKind::every(6, 7),
        ..expected
    };
    assert_eq!((with_images.family(), &with_images.gpt), (Family::Gemma3, &expected));
    let text = with_images.to_json(None).expect("its own");
    assert_eq!(read(&text).gpt, expected);
    assert!(text.contains("\"gemma3_text\"") && !text.contains("vision_config"), "{text}");
}

pub fn what_is_not_here_is_named_with_its_value() {
    let scaling = r#""rope_scaling": null"#;
    for (text, messages) in [
        (
            with(SMOLLM, "\"llama\"", "\"mixtral\""),
            &["model_type is \"mixtral\"", "gpt2, llama"][..],
        ),
        (with(SMOLLM, "silu", "relu"), &["hidden_act is \"relu\"", "only \"silu\""]),
        (with(GPT2, "gelu_new", "relu"), &["activation_function is \"relu\""]),
        (
            with(
                GEMMA2,
                "\"hidden_activation\": \"gelu_pytorch_tanh\"",
                "\"hidden_activation\": \"gelu\"",
            ),
            &["hidden_activation is \"gelu\""],
        ),
        (
            with(LLAMA, "\"attention_bias\": false", "\"attention_bias\": true"),
            &["mlp_bias is false", "attention_bias is not"],
        ),
        (
            with(QWEN3, "\"attention_bias\": false", "\"attention_bias\": true"),
            &["attention_bias is true, and only false"],
        ),
        (
            with(SMOLLM, scaling, r#""rope_scaling": {"rope_type": "yarn", "factor": 4.0}"#),
            &["rope_scaling.rope_type is \"yarn\"", "default, linear and llama3"],
        ),
        (
            with(SMOLLM, scaling, r#""rope_scaling": {"type": "linear"}"#),
            &["rope_scaling.factor is missing"],
        ),
        (
            with(SMOLLM, scaling, r#""rope_scaling": {"type": "linear", "factor": 2, "beta": 3}"#),
            &["rope_scaling.beta is 3", "not known"],
        ),
        (
            with(SMOLLM, "\"rope_interleaved\": false", "\"rope_interleaved\": true"),
            &["rope_interleaved is true"],
        ),
        (and(SMOLLM, "\"partial_rotary_factor\": 0.5"), &["partial_rotary_factor is 0.5"]),
        (
            and(SMOLLM, r#""quantization_config": {"bits": 4}"#),
            &["quantization_config is {\"bits\":4}", "not quantized"],
        ),
        (and(SMOLLM, r#""auto_map": {"AutoModel": "a.B"}"#), &["auto_map is", "code of its own"]),
        (and(SMOLLM, "\"num_experts\": 8"), &["num_experts is 8", "not known"]),
        (and(SMOLLM, "\"sliding_window\": 8"), &["sliding_window is 8"]),
        (
            and(GPT2, "\"scale_attn_by_inverse_layer_idx\": true"),
            &["scale_attn_by_inverse_layer_idx is true"],
        ),
        (with(GPT2, "\"n_ctx\": 16", "\"n_ctx\": 8"), &["n_ctx is 8, which is not n_positions"]),
        (and(GPT2, "\"add_cross_attention\": true"), &["add_cross_attention is true"]),
        (
            with(
                GEMMA3,
                "\"use_bidirectional_attention\": false",
                "\"use_bidirectional_attention\": true",
            ),
            &["use_bidirectional_attention is true"],
        ),
        (
            with(GEMMA3, "\"full_attention\"],", "\"chunked_attention\"],"),
            &["layer_types is [", "chunked_attention", "full_attention and sliding_attention"],
        ),
        (with(GEMMA3, ", \"full_attention\"],", "],"), &["layer_types is", "num_hidden_layers"]),
        (with(QWEN2, "\"use_mrope\": false", "\"use_mrope\": true"), &["use_mrope is true"]),
        (
            with(SMOLLM, "\"vocab_size\": 11", "\"vocab_size\": -11"),
            &["vocab_size is -11, not a count"],
        ),
        (with(SMOLLM, "\"hidden_size\": 16", "\"hidden_size\": null"), &["hidden_size is null"]),
        (with(SMOLLM, "  \"hidden_size\": 16,\n", ""), &["hidden_size is missing"]),
        (
            with(SMOLLM, "\"num_hidden_layers\": 1", "\"num_hidden_layers\": 1000000000"),
            &["num_hidden_layers is 1000000000"],
        ),
        (
            with(SMOLLM, "\"num_attention_heads\": 2", "\"num_attention_heads\": 3"),
            &["width is 16"],
        ),
        ("[]".to_owned(), &["no JSON object"]),
        ("{".to_owned(), &["config.json: "]),
        ("{}".to_owned(), &["model_type is null"]),
    ] {
        let error = error(&text);
        for message in messages {
            assert!(error.contains(message), "{message:?} is not in: {error}");
        }
    }
    // All at once.
    let text = with(&and(SMOLLM, "\"num_experts\": 8"), "silu", "relu");
    let error = error(&text);
    assert!(error.contains("num_experts") && error.contains("hidden_act"), "{error}");
}

pub fn only_what_differs_is_written() {
    for text in models::ALL {
        let mut config = read(text);
        assert_eq!(config.to_json(None).expect("its own"), text);
        // What is about training, and a shorter context where positions are not learned.
        config.gpt.dropout = 0.25;
        config.gpt.watch_logits = true;
        if config.family() != Family::Gpt2 {
            config.gpt.context = 8;
        }
        assert_eq!(config.to_json(None).expect("its own"), text);

        config.gpt.vocabulary = 12;
        config.gpt.norm_eps = 3e-5;
        config.gpt.layers = 1;
        config.gpt.layer_kinds.truncate(1);
        if !config.gpt.layer_kinds.contains(&LayerKind::Full) {
            config.gpt.layer_kinds.clear();
        }
        let written = config.to_json(Some(Precision::F16)).expect("written");
        assert!(written.contains("\"vocab_size\": 12"), "{written}");
        assert!(written.contains("dtype\": \"float16\""), "{written}");
        let again = read(&written);
        let GptConfig { dropout, watch_logits, context, .. } = config.gpt;
        let gpt = GptConfig { dropout, watch_logits, context, ..again.gpt };
        assert_eq!(gpt, config.gpt, "{written}");
        // Whatever else there was is still there.
        for line in text.lines().filter(|line| line.contains("token_id")) {
            let name = line.split('"').nth(1).expect("a name");
            assert!(written.contains(name), "{name} is gone from {written}");
        }
    }
}

pub fn new_configurations_are_read_as_they_were_meant() {
    for text in models::ALL {
        let config = read(text);
        let new = Config::new(config.family(), config.gpt.clone()).expect("a model of the family");
        assert_eq!(read(&new.to_json(None).expect("its own")).gpt, config.gpt);
    }
    let llama = read(LLAMA).gpt;
    for (family, gpt, message) in [
        (Family::Llama, GptConfig { soft_cap: Some(5.0), ..llama.clone() }, "soft_cap Some(5.0)"),
        (Family::Llama, GptConfig { qk_norm: Some(QkNorm::Rms), ..llama.clone() }, "qk_norm"),
        (Family::Llama, GptConfig { window: Some(3), ..llama.clone() }, "window Some(3)"),
        (Family::Qwen3, llama.clone(), "qk_norm None"),
        (Family::Gpt2, llama, "positions Rotary"),
    ] {
        let error = Config::new(family, gpt).expect_err(message).to_string();
        assert!(error.contains(message), "{message:?} is not in: {error}");
    }
}
