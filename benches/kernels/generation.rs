use evenkeel::kernel::HeadQuads;
use evenkeel::kernels::*;

use crate::bench::{Family, Shape, bind};

/// Positions of the cache, and tokens of a vocabulary.
const SIZES: [(u32, u32); 2] = [(256, 1024), (2048, 49_152)];
const HEADS: [u32; 2] = [9, 3];
const HEAD_QUADS: u32 = 16;

pub fn run(family: &mut Family<'_>) {
    for (context, vocabulary) in SIZES {
        for rows in [1, 64] {
            cache(family, context, rows);
        }
        sample(family, vocabulary);
    }
}

/// The last rows of a text of the whole context.
fn cache(family: &mut Family<'_>, context: u32, rows: u32) {
    let [heads, kv_heads] = HEADS;
    let qkv = family.tensor(rows, (heads + 2 * kv_heads) * 4 * HEAD_QUADS);
    let output = family.tensor(rows, heads * 4 * HEAD_QUADS);
    let held = Shape { rows: kv_heads * context, cols: 4 * HEAD_QUADS };
    let [keys, values] = family.tensors(held);
    let positions: Vec<_> = (context - rows..context).collect();
    let positions = family.gpu.upload("positions", &positions);
    let [qkv, positions, keys, values, output] =
        [&qkv, &positions, &keys, &values, &output].map(bind);
    let size = format!("{rows} x {heads} heads of 64, context {context}");
    let written = u64::from(rows * kv_heads * HEAD_QUADS) * 16;
    let append = CacheAppend {
        params: CacheAppendParams {
            sequences: 1,
            rows,
            heads,
            kv_heads,
            quads: HEAD_QUADS,
            context,
        },
        qkv: qkv.clone(),
        positions: positions.clone(),
        keys: keys.clone(),
        values: values.clone(),
    };
    family.moves(&size, 4 * written, &append);
    let attend = AttentionCached {
        params: AttentionCachedParams {
            batch: 1,
            time: rows,
            heads,
            kv_heads,
            head_quads: HEAD_QUADS,
            scale: 0.125,
            soft_cap: 0.0,
            window: context,
        },
        context,
        qkv,
        positions,
        keys,
        values,
        output,
    };
    // The cache is read once at least.
    let bytes = 2 * u64::from(held.quads()) * 16;
    family.moves_as(HeadQuads::fitting(HEAD_QUADS), &size, bytes, &attend);
}

/// One row of logits, greedily and with all that may cut it.
fn sample(family: &mut Family<'_>, vocabulary: u32) {
    let logits = family.tensor(1, vocabulary);
    let seen = family.gpu.upload("seen", &vec![0u32; vocabulary.div_ceil(32) as usize]);
    let sampled = family.gpu.upload("sampled", &[0u32; 4]);
    let real = |x: f32| x.to_bits();
    for (what, temperature) in [("greedy", 0.0), ("top_k, top_p, min_p", 0.5)] {
        let words = [real(temperature), 50, real(0.9), real(0.05), real(1.1), 1, 0, 0];
        let settings = family.gpu.upload("settings", &words);
        let sample = Sample {
            params: SampleParams { rows: 1, vocabulary },
            logits: bind(&logits),
            settings: bind(&settings),
            seen: bind(&seen),
            sampled: bind(&sampled),
        };
        let size = format!("{vocabulary} tokens, {what}");
        family.moves(size, 4 * u64::from(vocabulary), &sample);
    }
}
