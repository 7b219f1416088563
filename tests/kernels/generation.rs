//! Going on with texts: a cache, attention to it, and tokens drawn from logits.

use evenkeel::Gpu;
use evenkeel::kernel::HeadQuads;
use evenkeel::kernels::*;
use evenkeel::reference::attention::Attention as Size;
use evenkeel::reference::generation::{self as reference, Cache, Sampling};

use super::attention::{ROUNDING, size};
use super::support::{assert_close, block_on, pad, read, tokens, values, wide};

rows! { cache_append, attention_cached, sample }

const NOWHERE: u32 = u32::MAX;

/// Rows at positions of caches of so many: within a block of 64 keys and beyond it, grouped queries,
/// caps, windows, heads of all sizes, padding.
fn cases() -> Vec<(Cache, Vec<u32>)> {
    let cache = |size: Size, context, window| Cache { attention: Size { window, ..size }, context };
    vec![
        (cache(size(1, 1, 1, 1, 4), 1, 1), vec![0]),
        (cache(size(2, 3, 2, 1, 8), 5, 5), vec![0, 1, 2, 4, NOWHERE, 5]),
        (cache(size(1, 2, 4, 2, 12), 66, 66), vec![65, 63]),
        (cache(size(2, 2, 2, 2, 20), 200, 200), vec![199, 128, 64, NOWHERE]),
        (cache(size(2, 2, 2, 1, 16), 150, 7), vec![149, 3, 6, 7]),
        (cache(size(1, 2, 2, 1, 16), 150, 65), vec![149, 64]),
        (cache(Size { soft_cap: 0.8, ..size(1, 3, 6, 2, 36) }, 70, 70), vec![3, 69, 20]),
        (cache(size(1, 1, 2, 1, 128), 67, 67), vec![66]),
        (cache(size(1, 2, 2, 1, 256), 130, 130), vec![129, 5]),
        (cache(size(3, 1, 3, 3, 64), 9, 9), vec![NOWHERE, 8, 0]),
    ]
}

struct Buffers {
    qkv: wgpu::Buffer,
    positions: wgpu::Buffer,
    keys: wgpu::Buffer,
    values: wgpu::Buffer,
    output: wgpu::Buffer,
}

impl Buffers {
    fn new(gpu: &Gpu, cache: &Cache, positions: &[u32], [qkv, keys, values]: [&[f32]; 3]) -> Self {
        Self {
            qkv: gpu.upload("qkv", qkv),
            positions: gpu.upload("positions", positions),
            keys: gpu.upload("keys", keys),
            values: gpu.upload("values", values),
            output: gpu.upload("output", &vec![7.0f32; cache.attention.output_len()]),
        }
    }

    fn append(&self, cache: &Cache) -> CacheAppend<'_> {
        let Size { batch, time, heads, kv_heads, head_dim, .. } = cache.attention;
        CacheAppend {
            params: CacheAppendParams {
                sequences: batch as u32,
                rows: time as u32,
                heads: heads as u32,
                kv_heads: kv_heads as u32,
                quads: head_dim as u32 / 4,
                context: cache.context as u32,
            },
            qkv: self.qkv.as_entire_buffer_binding(),
            positions: self.positions.as_entire_buffer_binding(),
            keys: self.keys.as_entire_buffer_binding(),
            values: self.values.as_entire_buffer_binding(),
        }
    }

    fn attend(&self, cache: &Cache) -> AttentionCached<'_> {
        let Size { batch, time, heads, kv_heads, head_dim, scale, soft_cap, window } =
            cache.attention;
        AttentionCached {
            params: AttentionCachedParams {
                batch: batch as u32,
                time: time as u32,
                heads: heads as u32,
                kv_heads: kv_heads as u32,
                head_quads: head_dim as u32 / 4,
                scale: scale as f32,
                soft_cap: soft_cap as f32,
                window: window as u32,
            },
            context: cache.context as u32,
            qkv: self.qkv.as_entire_buffer_binding(),
            positions: self.positions.as_entire_buffer_binding(),
            keys: self.keys.as_entire_buffer_binding(),
            values: self.values.as_entire_buffer_binding(),
            output: self.output.as_entire_buffer_binding(),
        }
    }
}

fn cache_append(gpu: &Gpu) {
    for (cache, positions) in cases() {
        let qkv = values(1, cache.attention.qkv_len());
        let held = [2, 3].map(|seed| values(seed, cache.len()));
        let buffers = Buffers::new(gpu, &cache, &positions, [&qkv, &held[0], &held[1]]);
        gpu.run(&buffers.append(&cache));
        let [keys, values] = [wide(&held[0]), wide(&held[1])];
        let expected = reference::cache_append(&cache, &wide(&qkv), &positions, [&keys, &values]);
        for (buffer, expected) in [&buffers.keys, &buffers.values].into_iter().zip(expected) {
            assert!(wide(&read(gpu, buffer)) == expected, "{cache:?}");
        }
    }
}

fn attention_cached(gpu: &Gpu) {
    for (cache, positions) in cases() {
        let qkv = values(1, cache.attention.qkv_len());
        let mut held = [2, 3].map(|seed| values(seed, cache.len()));
        let expected = |held: &[Vec<f32>; 2]| {
            let [keys, values] = [wide(&held[0]), wide(&held[1])];
            reference::attention_cached(&cache, &wide(&qkv), &positions, [&keys, &values])
        };
        let buffers = Buffers::new(gpu, &cache, &positions, [&qkv, &held[0], &held[1]]);
        gpu.run(&buffers.attend(&cache));
        let whole = read(gpu, &buffers.output);
        assert_close(&format!("{cache:?}"), &whole, &expected(&held), ROUNDING);

        // Compiled for the heads.
        let quads = HeadQuads::fitting(cache.attention.head_dim as u32 / 4);
        gpu.run_as(&buffers.attend(&cache), quads);
        assert!(read(gpu, &buffers.output) == whole, "{cache:?} by {quads:?}");

        // What no row sees may be anything.
        let Size { batch, time, kv_heads, head_dim, window, .. } = cache.attention;
        for sequence in 0..batch {
            let seen = |t: usize| {
                let rows = &positions[sequence * time..][..time];
                rows.iter().any(|&p| {
                    (p as usize) < cache.context && t <= p as usize && p as usize - t < window
                })
            };
            for h in 0..kv_heads {
                for t in (0..cache.context).filter(|&t| !seen(t)) {
                    let at = ((sequence * kv_heads + h) * cache.context + t) * head_dim;
                    held.iter_mut().for_each(|side| side[at..at + head_dim].fill(f32::NAN));
                }
            }
        }
        let buffers = Buffers::new(gpu, &cache, &positions, [&qkv, &held[0], &held[1]]);
        gpu.run(&buffers.attend(&cache));
        assert!(read(gpu, &buffers.output) == whole, "{cache:?}: of what is not seen");
    }
    what_is_not_finite_shows(gpu);
    scores_beyond_a_sentinel(gpu);
    // With 64 invocations each, so many workgroups take software adapters a minute.
    if gpu.is_software() {
        many_rows(gpu);
    }
}

/// A key or value that is seen and not finite, or a score that overflows, leaves no number.
fn what_is_not_finite_shows(gpu: &Gpu) {
    let attention = Size { window: 70, ..size(1, 1, 1, 1, 4) };
    let cache = Cache { attention, context: 70 };
    for (side, bad) in [0, 1]
        .into_iter()
        .flat_map(|side| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|bad| (side, bad)))
    {
        for at in [0, 65, 69] {
            let mut held = [2, 3].map(|seed| values(seed, cache.len()));
            held[side][4 * at] = bad;
            let qkv = values(1, 12);
            let buffers = Buffers::new(gpu, &cache, &[69], [&qkv, &held[0], &held[1]]);
            gpu.run(&buffers.attend(&cache));
            let output = read(gpu, &buffers.output);
            assert!(!output[0].is_finite(), "side {side}, {bad} at {at}: {output:?}");
        }
    }
    let held = vec![-3e38f32; cache.len()];
    let buffers = Buffers::new(gpu, &cache, &[3], [&[3e38; 12], &held, &held]);
    gpu.run(&buffers.attend(&cache));
    assert!(read(gpu, &buffers.output).iter().all(|x| x.is_nan()), "scores that overflow");
}

/// Scores far below whatever a maximum might begin with: the weights are those of the softmax.
fn scores_beyond_a_sentinel(gpu: &Gpu) {
    let attention = Size { scale: 1.0, window: 2, ..size(1, 1, 1, 1, 4) };
    let cache = Cache { attention, context: 2 };
    let mut qkv = vec![0.0; 12];
    qkv[0] = 1e15;
    let keys = [-2e16, 0.0, 0.0, 0.0, -2e16, 0.0, 0.0, 0.0];
    let held = [1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0];
    let buffers = Buffers::new(gpu, &cache, &[1], [&qkv, &keys, &held]);
    gpu.run(&buffers.attend(&cache));
    assert_eq!(read(gpu, &buffers.output), [2.0; 4]);
}

/// More rows than a dispatch has workgroups in one dimension: each sees its only key.
fn many_rows(gpu: &Gpu) {
    let cache = Cache { attention: size(32_769, 1, 2, 1, 4), context: 1 };
    let held = values(3, cache.len());
    let qkv = values(1, cache.attention.qkv_len());
    let positions = vec![0; 32_769];
    let buffers = Buffers::new(gpu, &cache, &positions, [&qkv, &held, &held]);
    gpu.run(&buffers.attend(&cache));
    let expected: Vec<_> = held.chunks(4).flat_map(|v| [v, v].concat()).collect();
    assert!(read(gpu, &buffers.output) == expected);
}

const PLAIN: Sampling = Sampling {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    seed: 7,
    index: 0,
};

/// One row of logits for each sampling.
fn run_sample(gpu: &Gpu, rows: &[(Sampling, Vec<f32>, Vec<bool>)]) -> Vec<u32> {
    let vocabulary = rows[0].1.len();
    let logits: Vec<_> = rows.iter().flat_map(|(_, logits, _)| pad(logits, vocabulary)).collect();
    let settings: Vec<_> = rows.iter().flat_map(|(sampling, ..)| sampling.words()).collect();
    let mut words = vec![0u32; rows.len() * vocabulary.div_ceil(32)];
    for ((.., seen), words) in rows.iter().zip(words.chunks_mut(vocabulary.div_ceil(32))) {
        for token in (0..vocabulary).filter(|&token| seen[token]) {
            words[token / 32] |= 1 << (token % 32);
        }
    }
    let [logits, settings, seen] = [
        gpu.upload("logits", &logits),
        gpu.upload("settings", &settings),
        gpu.upload("seen", &words),
    ];
    let sampled = gpu.upload("sampled", &vec![7u32; 4 * rows.len()]);
    gpu.run(&Sample {
        params: SampleParams { rows: rows.len() as u32, vocabulary: vocabulary as u32 },
        logits: logits.as_entire_buffer_binding(),
        settings: settings.as_entire_buffer_binding(),
        seen: seen.as_entire_buffer_binding(),
        sampled: sampled.as_entire_buffer_binding(),
    });
    block_on(gpu.read(&sampled, 0, 4 * rows.len())).expect("readable")
}

/// Whether the reference says the same when what is compared in it moves by what f32 rounds off.
fn is_clear(sampling: &Sampling, logits: &[f64], seen: &[bool]) -> Option<[u32; 4]> {
    let near = |factor: f64| {
        let moved = Sampling {
            top_p: if sampling.top_p < 1.0 { sampling.top_p * factor } else { 1.0 },
            min_p: (sampling.min_p * factor).min(1.0),
            ..*sampling
        };
        reference::sample(&moved, logits, |token| seen[token])
    };
    let found = [1.0, 1.0 - 2e-5, 1.0 + 2e-5].map(near);
    if found[1] != found[0] || found[2] != found[0] {
        return None;
    }
    if sampling.temperature == 0.0 {
        return Some(found[0]);
    }
    // Not where u times the sum is next to the border of a token.
    let penalized = reference::penalized(sampling, logits, |token| seen[token]);
    let kept = reference::kept(sampling, &penalized);
    let all: f64 = kept.iter().map(|&(_, weight)| weight).sum();
    let (mut sum, at) = (0.0, reference::uniform(sampling) * all);
    let is_near = kept.iter().any(|&(_, weight)| {
        sum += weight;
        (sum - at).abs() < 2e-5 * all
    });
    (!is_near).then_some(found[0])
}

fn sample(gpu: &Gpu) {
    let filters = [
        PLAIN,
        Sampling { temperature: 0.0, ..PLAIN },
        Sampling { temperature: 0.3, ..PLAIN },
        Sampling { top_k: 1, ..PLAIN },
        Sampling { top_k: 5, temperature: 2.5, ..PLAIN },
        Sampling { top_p: 0.3, ..PLAIN },
        Sampling { top_p: 0.93, temperature: 0.7, ..PLAIN },
        Sampling { top_p: 1e-30, ..PLAIN },
        Sampling { min_p: 0.2, ..PLAIN },
        Sampling { min_p: 1.0, ..PLAIN },
        Sampling { top_k: 20, top_p: 0.8, min_p: 0.1, temperature: 1.3, ..PLAIN },
        Sampling { repetition_penalty: 1.7, top_k: 9, ..PLAIN },
        Sampling { repetition_penalty: 0.6, top_p: 0.6, min_p: 0.05, ..PLAIN },
        Sampling { repetition_penalty: 3.0, temperature: 0.0, ..PLAIN },
    ];
    let (mut compared, mut all) = (0, 0);
    for vocabulary in [1, 2, 5, 33, 259, 1030] {
        let mut rows = Vec::new();
        for (index, filter) in filters.iter().cycle().take(3 * filters.len()).enumerate() {
            let index = index as u32;
            let scale = [1.0, 3.0, 8.0][index as usize / filters.len()];
            let mut logits = values(u64::from(index) + 5, vocabulary);
            // A grid of few numbers, both signs: many ties.
            let grid = if index.is_multiple_of(2) { 4.0 } else { 1e3 };
            logits.iter_mut().for_each(|x| *x = (*x * grid).round() / grid * scale);
            let seen = tokens(u64::from(index), vocabulary, 2).iter().map(|&x| x == 1).collect();
            rows.push((Sampling { index, ..*filter }, logits, seen));
        }
        let found = run_sample(gpu, &rows);
        for ((sampling, logits, seen), found) in rows.iter().zip(found.chunks(4)) {
            let sampling = Sampling::from_words(&sampling.words());
            all += 1;
            let Some(expected) = is_clear(&sampling, &wide(logits), seen) else { continue };
            assert_eq!(found, expected, "{vocabulary} tokens, {sampling:?}");
            compared += 1;
        }
    }
    assert!(10 * compared > 8 * all, "{compared} of {all} rows are compared");
    kept_sets(gpu);
    zeros_are_equal(gpu);
    what_is_not_finite_is_named(gpu);
}

/// Many draws of one row: none of what is not kept, all of what is, as often as they should.
fn kept_sets(gpu: &Gpu) {
    let logits: Vec<f32> = vec![0.5, 2.0, -1.0, 2.0, 1.0, 0.5, 2.0, -3.0, 0.5, 1.0, -1.0];
    for (filter, kept) in [
        (Sampling { top_k: 2, ..PLAIN }, &[1, 3][..]),
        (Sampling { top_k: 4, ..PLAIN }, &[1, 3, 4, 6]),
        (Sampling { top_k: 7, ..PLAIN }, &[0, 1, 3, 4, 5, 6, 9]),
        // Shares: 0.2265 each of the three, then 0.0833 twice, 0.0505 thrice.
        (Sampling { top_p: 0.22, ..PLAIN }, &[1]),
        (Sampling { top_p: 0.46, ..PLAIN }, &[1, 3, 6]),
        (Sampling { top_p: 0.7, ..PLAIN }, &[1, 3, 4, 6]),
        (Sampling { top_p: 0.85, ..PLAIN }, &[0, 1, 3, 4, 6, 9]),
        (Sampling { min_p: 0.3, ..PLAIN }, &[1, 3, 4, 6, 9]),
        (Sampling { min_p: 0.04, ..PLAIN }, &[0, 1, 2, 3, 4, 5, 6, 8, 9, 10]),
        // Of the first four, 0.2967 each but the last: 0.89 for three.
        (Sampling { top_k: 4, top_p: 0.88, ..PLAIN }, &[1, 3, 6]),
        (Sampling { top_k: 5, min_p: 0.5, ..PLAIN }, &[1, 3, 6]),
    ] {
        // With 256 invocations to a row, software adapters take their time.
        let draws = if gpu.is_software() { 1200 } else { 60 };
        let row = |index| (Sampling { index, ..filter }, logits.clone(), vec![false; 11]);
        let found = run_sample(gpu, &(0..draws).map(row).collect::<Vec<_>>());
        let mut counts = vec![0u32; logits.len()];
        for row in found.chunks(4) {
            assert_eq!(row[1..], [kept.len() as u32, u32::MAX, 0], "{filter:?}");
            counts[row[0] as usize] += 1;
        }
        let weight = |token: usize| f64::from(logits[token]).exp();
        let all: f64 = kept.iter().map(|&token| weight(token)).sum();
        for (token, &count) in counts.iter().enumerate() {
            let share = if kept.contains(&token) { weight(token) / all } else { 0.0 };
            let mean = share * f64::from(draws);
            let off = (f64::from(count) - mean).abs();
            let deviation = (mean * (1.0 - share)).sqrt();
            assert!(off <= 5.0 * deviation, "{filter:?}: {token} {count} times, not {mean}");
        }
    }
}

fn zeros_are_equal(gpu: &Gpu) {
    let row = |sampling, logits: [f32; 3]| (sampling, logits.to_vec(), vec![false; 3]);
    let greedy = Sampling { temperature: 0.0, ..PLAIN };
    let rows = [row(greedy, [-0.0, 0.0, -1.0]), row(greedy, [-1.0, 0.0, -0.0])];
    let found = run_sample(gpu, &rows);
    assert_eq!([found[0], found[4]], [0, 1]);
    let rows = [row(Sampling { top_k: 1, ..PLAIN }, [-0.0, 0.0, -1.0])];
    assert_eq!(run_sample(gpu, &rows)[..2], [0, 1]);
}

/// The first logit that is NaN or Inf, wherever it is and however tokens are drawn; other rows are
/// drawn from.
fn what_is_not_finite_is_named(gpu: &Gpu) {
    for filter in [PLAIN, Sampling { temperature: 0.0, ..PLAIN }, Sampling { top_k: 2, ..PLAIN }] {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 3, 299] {
                let mut logits = values(3, 301);
                let good = (filter, logits.clone(), vec![false; 301]);
                (logits[at], logits[300]) = (bad, f32::NAN);
                let found = run_sample(gpu, &[good, (filter, logits, vec![true; 301])]);
                assert!(found[1] > 0, "{found:?}");
                assert_eq!(found[5..7], [0, at as u32], "{bad} at {at}: {found:?}");
                assert!(!f32::from_bits(found[7]).is_finite(), "{found:?}");
            }
        }
    }
    // A penalty that takes a logit out of f32.
    let logits = vec![1.0, -3e38, 2.0];
    let penalty = Sampling { repetition_penalty: 2.0, ..PLAIN };
    let found = run_sample(gpu, &[(penalty, logits, vec![true; 3])]);
    assert_eq!(found[1..3], [0, 1]);
}
