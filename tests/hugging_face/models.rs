//! Tiny models of every family: configurations with the fields that files on the hub have, and
//! names and shapes of tensors as transformers writes them.

pub const GPT2: &str = r#"{
  "activation_function": "gelu_new",
  "architectures": [
    "GPT2LMHeadModel"
  ],
  "attn_pdrop": 0.1,
  "bos_token_id": 50256,
  "embd_pdrop": 0.1,
  "eos_token_id": 50256,
  "initializer_range": 0.02,
  "layer_norm_epsilon": 1e-05,
  "model_type": "gpt2",
  "n_ctx": 16,
  "n_embd": 8,
  "n_head": 2,
  "n_layer": 2,
  "n_positions": 16,
  "resid_pdrop": 0.1,
  "summary_activation": null,
  "summary_first_dropout": 0.1,
  "summary_proj_to_labels": true,
  "summary_type": "cls_index",
  "summary_use_proj": true,
  "task_specific_params": {
    "text-generation": {
      "do_sample": true,
      "max_length": 50
    }
  },
  "vocab_size": 11
}
"#;

/// As Llama 3.2, with its rope scaling.
pub const LLAMA: &str = r#"{
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 128000,
  "eos_token_id": 128001,
  "head_dim": 8,
  "hidden_act": "silu",
  "hidden_size": 16,
  "initializer_range": 0.02,
  "intermediate_size": 12,
  "max_position_embeddings": 64,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 2,
  "num_hidden_layers": 2,
  "num_key_value_heads": 1,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 16,
    "rope_type": "llama3"
  },
  "rope_theta": 500000.0,
  "tie_word_embeddings": true,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.45.0.dev0",
  "use_cache": true,
  "vocab_size": 11
}
"#;

/// As SmolLM2, which has a configuration of its own kind of Llama.
pub const SMOLLM: &str = r#"{
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 16,
  "initializer_range": 0.041666666666666664,
  "intermediate_size": 12,
  "is_llama_config": true,
  "max_position_embeddings": 32,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 2,
  "num_hidden_layers": 1,
  "num_key_value_heads": 1,
  "pad_token_id": 2,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_interleaved": false,
  "rope_scaling": null,
  "rope_theta": 100000,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16", "q4f16": "float16"}},
  "transformers_version": "4.42.3",
  "use_cache": true,
  "vocab_size": 11
}
"#;

/// As Mistral 7B 0.1.
pub const MISTRAL: &str = r#"{
  "architectures": ["MistralForCausalLM"],
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 16,
  "initializer_range": 0.02,
  "intermediate_size": 12,
  "max_position_embeddings": 32,
  "model_type": "mistral",
  "num_attention_heads": 2,
  "num_hidden_layers": 2,
  "num_key_value_heads": 1,
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "sliding_window": 6,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.34.0.dev0",
  "use_cache": true,
  "vocab_size": 11
}
"#;

/// As Qwen2.5 0.5B.
pub const QWEN2: &str = r#"{
  "architectures": ["Qwen2ForCausalLM"],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151643,
  "hidden_act": "silu",
  "hidden_size": 16,
  "initializer_range": 0.02,
  "intermediate_size": 12,
  "max_position_embeddings": 32,
  "max_window_layers": 1,
  "model_type": "qwen2",
  "num_attention_heads": 2,
  "num_hidden_layers": 2,
  "num_key_value_heads": 1,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 5,
  "tie_word_embeddings": true,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.40.1",
  "use_cache": true,
  "use_mrope": false,
  "use_sliding_window": false,
  "vocab_size": 11
}
"#;

/// As Qwen3 0.6B: heads together are wider than the model.
pub const QWEN3: &str = r#"{
  "architectures": ["Qwen3ForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "head_dim": 16,
  "hidden_act": "silu",
  "hidden_size": 16,
  "initializer_range": 0.02,
  "intermediate_size": 12,
  "max_position_embeddings": 32,
  "max_window_layers": 28,
  "model_type": "qwen3",
  "num_attention_heads": 2,
  "num_hidden_layers": 2,
  "num_key_value_heads": 1,
  "rms_norm_eps": 1e-06,
  "rope_scaling": null,
  "rope_theta": 1000000,
  "sliding_window": null,
  "tie_word_embeddings": true,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.51.0",
  "use_cache": true,
  "use_sliding_window": false,
  "vocab_size": 11
}
"#;

/// As Gemma 2 2B.
pub const GEMMA2: &str = r#"{
  "architectures": ["Gemma2ForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "attn_logit_softcapping": 50.0,
  "bos_token_id": 2,
  "cache_implementation": "hybrid",
  "eos_token_id": 1,
  "final_logit_softcapping": 30.0,
  "head_dim": 16,
  "hidden_act": "gelu_pytorch_tanh",
  "hidden_activation": "gelu_pytorch_tanh",
  "hidden_size": 16,
  "initializer_range": 0.02,
  "intermediate_size": 12,
  "max_position_embeddings": 32,
  "model_type": "gemma2",
  "num_attention_heads": 2,
  "num_hidden_layers": 3,
  "num_key_value_heads": 1,
  "pad_token_id": 0,
  "query_pre_attn_scalar": 9,
  "rms_norm_eps": 1e-06,
  "rope_theta": 10000.0,
  "sliding_window": 4,
  "torch_dtype": "float32",
  "transformers_version": "4.42.4",
  "use_cache": true,
  "vocab_size": 11
}
"#;

/// As Gemma 3 1B, as transformers 5 writes it.
pub const GEMMA3: &str = r#"{
  "_sliding_window_pattern": 2,
  "architectures": ["Gemma3ForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "attn_logit_softcapping": null,
  "bos_token_id": 2,
  "dtype": "bfloat16",
  "eos_token_id": [1, 106],
  "final_logit_softcapping": null,
  "head_dim": 16,
  "hidden_activation": "gelu_pytorch_tanh",
  "hidden_size": 16,
  "initializer_range": 0.02,
  "intermediate_size": 12,
  "layer_types": ["sliding_attention", "full_attention"],
  "max_position_embeddings": 32,
  "model_type": "gemma3_text",
  "num_attention_heads": 2,
  "num_hidden_layers": 2,
  "num_key_value_heads": 1,
  "pad_token_id": 0,
  "query_pre_attn_scalar": 16,
  "rms_norm_eps": 1e-06,
  "rope_parameters": {
    "full_attention": {"factor": 8.0, "rope_theta": 1000000.0, "rope_type": "linear"},
    "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}
  },
  "sliding_window": 4,
  "tie_word_embeddings": true,
  "transformers_version": "5.0.0",
  "use_bidirectional_attention": false,
  "use_cache": true,
  "vocab_size": 11
}
"#;

/// As Gemma 3 4B, a model of text and images, as transformers 4 wrote it. What Gemma 3 has by
/// default is not said: 8 heads, of which keys and values have 4, and every sixth layer full.
pub const GEMMA3_WITH_IMAGES: &str = r#"{
  "architectures": ["Gemma3ForConditionalGeneration"],
  "boi_token_index": 255999,
  "eoi_token_index": 256000,
  "eos_token_id": [1, 106],
  "image_token_index": 262144,
  "initializer_range": 0.02,
  "mm_tokens_per_image": 256,
  "model_type": "gemma3",
  "text_config": {
    "head_dim": 8,
    "hidden_size": 16,
    "intermediate_size": 12,
    "model_type": "gemma3_text",
    "num_hidden_layers": 7,
    "query_pre_attn_scalar": 8,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 4,
    "vocab_size": 11
  },
  "torch_dtype": "bfloat16",
  "transformers_version": "4.50.0.dev0",
  "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"}
}
"#;

/// All that have the tensors of [`tensors`].
pub const ALL: [&str; 8] = [GPT2, LLAMA, SMOLLM, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3];

/// A name and a shape.
pub type Named = (String, Vec<usize>);

/// What transformers writes for a configuration.
pub fn tensors(config: &str) -> Vec<Named> {
    match config {
        GPT2 => gpt2(),
        LLAMA => llama(2, [16, 8], &[], &NORMS, true),
        SMOLLM => llama(1, [16, 8], &[], &NORMS, false),
        MISTRAL => llama(2, [16, 8], &[], &NORMS, false),
        QWEN2 => {
            let biases = [("q_proj.bias", 16), ("k_proj.bias", 8), ("v_proj.bias", 8)];
            llama(2, [16, 8], &biases, &NORMS, true)
        }
        QWEN3 => llama(2, [32, 16], &HEAD_NORMS, &NORMS, true),
        GEMMA2 => llama(3, [32, 16], &[], &GEMMA_NORMS, true),
        GEMMA3 => llama(2, [32, 16], &HEAD_NORMS, &GEMMA_NORMS, true),
        GEMMA3_WITH_IMAGES => {
            let norms = [("q_norm.weight", 8), ("k_norm.weight", 8)];
            llama(7, [64, 32], &norms, &GEMMA_NORMS, true)
        }
        _ => panic!("not one of these"),
    }
}

const HEAD_NORMS: [(&str, usize); 2] = [("q_norm.weight", 16), ("k_norm.weight", 16)];
const NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];
const GEMMA_NORMS: [&str; 4] = [
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];

fn gpt2() -> Vec<Named> {
    let mut tensors = vec![
        ("transformer.wte.weight".to_owned(), vec![11, 8]),
        ("transformer.wpe.weight".to_owned(), vec![16, 8]),
        ("transformer.ln_f.weight".to_owned(), vec![8]),
        ("transformer.ln_f.bias".to_owned(), vec![8]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("ln_1.weight", vec![8]),
            ("ln_1.bias", vec![8]),
            ("attn.c_attn.weight", vec![8, 24]),
            ("attn.c_attn.bias", vec![24]),
            ("attn.c_proj.weight", vec![8, 8]),
            ("attn.c_proj.bias", vec![8]),
            ("ln_2.weight", vec![8]),
            ("ln_2.bias", vec![8]),
            ("mlp.c_fc.weight", vec![8, 32]),
            ("mlp.c_fc.bias", vec![32]),
            ("mlp.c_proj.weight", vec![32, 8]),
            ("mlp.c_proj.bias", vec![8]),
        ] {
            tensors.push((format!("transformer.h.{layer}.{name}"), shape));
        }
    }
    tensors
}

/// Width 16, hidden 12, vocabulary 11.
fn llama(
    layers: usize,
    [queries, keys]: [usize; 2],
    of_attention: &[(&str, usize)],
    norms: &[&str],
    is_tied: bool,
) -> Vec<Named> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![11, 16]),
        ("model.norm.weight".to_owned(), vec![16]),
    ];
    if !is_tied {
        tensors.push(("lm_head.weight".to_owned(), vec![11, 16]));
    }
    for layer in 0..layers {
        let mut push = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        push("self_attn.q_proj.weight", &[queries, 16]);
        push("self_attn.k_proj.weight", &[keys, 16]);
        push("self_attn.v_proj.weight", &[keys, 16]);
        push("self_attn.o_proj.weight", &[16, queries]);
        for (name, size) in of_attention {
            push(&format!("self_attn.{name}"), &[*size]);
        }
        push("mlp.gate_proj.weight", &[12, 16]);
        push("mlp.up_proj.weight", &[12, 16]);
        push("mlp.down_proj.weight", &[16, 12]);
        for norm in norms {
            push(&format!("{norm}.weight"), &[16]);
        }
    }
    tensors
}
