//! Random numbers: bits against known answers, values against the reference, distributions against
//! their distribution functions.

use evenkeel::kernel::{Fragment, shared};
use evenkeel::kernels::*;
use evenkeel::step::StepInput;
use evenkeel::{Gpu, kernel, reference};

use super::support::{self, Tolerance, assert_close, block_on, pad, read, unpad, values, wide};

tests! {
    threefry_has_the_known_answers,
}

rows! { dropout, fill, initialize_normal, initialize_uniform }

kernel! {
    /// The bare generator.
    pub Threefry = [
        shared::RANDOM,
        Fragment {
            path: "threefry.wgsl",
            text: "
                // words[i] = threefry4x32(counters[i], keys[i]). One invocation.
                struct ThreefryParams { count: u32 }
                @group(0) @binding(0) var<uniform> params: ThreefryParams;
                @group(0) @binding(1) var<storage, read> counters: array<vec4<u32>>;
                @group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;
                @group(0) @binding(3) var<storage, read_write> words: array<vec4<u32>>;
                @compute @workgroup_size(1)
                fn main() {
                    for (var i = 0u; i < params.count; i++) {
                        words[i] = threefry4x32(counters[i], keys[i]);
                    }
                }",
        },
    ];
    workgroup [1, 1, 1];
    grid |_params| [1, 1, 1];
    uniform ThreefryParams {
        /// Blocks.
        count: u32,
    }
    buffers {
        /// (count, 4)
        Read counters,
        /// (count, 4)
        Read keys,
        /// (count, 4), overwritten.
        Write words,
    }
}

/// Random123's vectors for threefry4x32 with 20 rounds, and others as the reference has them.
fn threefry_has_the_known_answers() {
    let Some(gpu) = support::gpu() else { return };
    let ones = [u32::MAX; 4];
    let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    let more_pi = [0xa409_3822, 0x299f_31d0, 0x082e_fa98, 0xec4e_6c89];
    let mut counters = vec![[0; 4], ones, pi];
    let mut keys = vec![[0; 4], ones, more_pi];
    let mut expected = vec![
        [0x9c6c_a96a, 0xe17e_ae66, 0xfc10_ecd4, 0x5256_a7d8],
        [0x2a88_1696, 0x5701_2287, 0xf6c7_446e, 0xa16a_6732],
        [0x59cd_1dbb, 0xb887_9579, 0x86b5_d00c, 0xac8b_6d84],
    ];
    for i in 0..100u32 {
        counters.push([i, i.pow(3), !i, 7]);
        keys.push([i * 31, 5, i << 20, 1]);
        let (counter, key) = (counters[i as usize + 3], keys[i as usize + 3]);
        expected.push(reference::random::threefry4x32(counter, key));
    }
    let (gc, gk) = (gpu.upload("counters", &counters), gpu.upload("keys", &keys));
    let words = gpu.buffer("words", gc.size());
    gpu.run(&Threefry {
        params: ThreefryParams { count: counters.len() as u32 },
        counters: gc.as_entire_buffer_binding(),
        keys: gk.as_entire_buffer_binding(),
        words: words.as_entire_buffer_binding(),
    });
    let actual: Vec<[u32; 4]> = block_on(gpu.read(&words, 0, expected.len())).expect("readable");
    assert_eq!(actual, expected);
}

fn run_dropout(gpu: &Gpu, probability: f32, stream: u32, input: StepInput, x: &[f32]) -> Vec<f32> {
    let gi = gpu.upload("step_input", &[input]);
    let gx = gpu.upload("x", x);
    let y = gpu.upload("y", &vec![7.0f32; x.len()]);
    gpu.run(&Dropout {
        params: DropoutParams::new(x.len() as u32 / 4, stream, probability),
        step_input: gi.as_entire_buffer_binding(),
        x: gx.as_entire_buffer_binding(),
        y: y.as_entire_buffer_binding(),
    });
    read(gpu, &y)
}

const INPUT: StepInput = StepInput {
    seed: 1234,
    step: 56,
    microbatch: 2,
    learning_rate_factor: 1.0,
    first_microbatch: 0,
};

fn dropout(gpu: &Gpu) {
    let scaled =
        Tolerance { absolute: 0.0, relative: 1.9e-7, because: "a rounded scale and one product" };
    for (rows, cols) in [(1, 1), (5, 3), (1, 4), (3, 255), (2, 256), (1, 257)] {
        let x = values(1, rows * cols);
        for probability in [0.0, 0.1, 0.5, 0.999] {
            let y = unpad(&run_dropout(gpu, probability, 9, INPUT, &pad(&x, cols)), cols);
            let expected =
                reference::random::dropout(probability.into(), 9, &INPUT, cols, &wide(&x));
            assert_close(&format!("dropout {probability}"), &y, &expected, scaled);
            if probability == 0.0 {
                assert_eq!(y, x, "p = 0 is the identity");
            }
        }
    }
    more_than_65535_workgroups(gpu);
    backward_has_the_mask_of_forward(gpu);
    masks_are_independent(gpu);
}

/// The reference draws only the end, as drawing all of it takes a minute without optimisation.
fn more_than_65535_workgroups(gpu: &Gpu) {
    let quads = 65_535 * 64 + 70;
    let y = run_dropout(gpu, 0.25, 9, INPUT, &vec![1.0; 4 * quads]);
    for quad in quads - 200..quads {
        let counter = [quad as u32, INPUT.step, INPUT.microbatch, 9];
        let words = reference::random::threefry4x32(counter, [INPUT.seed, 0, 0, 1]);
        let kept = words.map(|word| word >= 1 << 30);
        let actual = [0, 1, 2, 3].map(|i| y[4 * quad + i] > 0.0);
        assert_eq!(actual, kept, "quad {quad}");
    }
}

fn backward_has_the_mask_of_forward(gpu: &Gpu) {
    let (x, dy) = (values(2, 4096), values(3, 4096));
    let y = run_dropout(gpu, 0.3, 1, INPUT, &x);
    let dx = run_dropout(gpu, 0.3, 1, INPUT, &dy);
    for i in 0..x.len() {
        assert_eq!(y[i] == 0.0, dx[i] == 0.0, "element {i}");
        assert!(y[i] == 0.0 || (dx[i] * x[i] - y[i] * dy[i]).abs() < 1e-6, "scale of {i}");
    }
}

/// Masks repeat for the same inputs, and agree by chance alone where any one of them differs.
fn masks_are_independent(gpu: &Gpu) {
    let ones = vec![1.0; 1 << 16];
    let mask = |stream, input| run_dropout(gpu, 0.5, stream, input, &ones);
    let base = mask(1, INPUT);
    assert_eq!(base, mask(1, INPUT), "same seed, step, microbatch and stream");
    let of_a_rank = StepInput { first_microbatch: 2, microbatch: 0, ..INPUT };
    assert_eq!(base, mask(1, of_a_rank), "the microbatch counts among those of all ranks");
    let others = [
        mask(2, INPUT),
        mask(1, StepInput { seed: 1235, ..INPUT }),
        mask(1, StepInput { step: 57, ..INPUT }),
        mask(1, StepInput { microbatch: 3, ..INPUT }),
        mask(1, StepInput { first_microbatch: 7, ..INPUT }),
        // Each field has its own place in the counter.
        mask(2, StepInput { microbatch: 1, ..INPUT }),
        mask(1, StepInput { step: 2, microbatch: 56, ..INPUT }),
    ];
    for (i, other) in others.iter().enumerate() {
        let agree = base.iter().zip(other).filter(|(a, b)| a == b).count() as f64;
        // Binomial with deviation √n / 2 = 128.
        assert!((agree - 32_768.0).abs() < 5.0 * 128.0, "mask {i} agrees on {agree} of 65536");
    }
    let kept = base.iter().filter(|&&y| y > 0.0).count() as f64;
    assert!((kept - 32_768.0).abs() < 5.0 * 128.0, "{kept} of 65536 kept");
}

/// Runs an initialiser over garbage and gives the dense tensor; its padding must be zero.
fn draw(gpu: &Gpu, rows: u32, cols: u32, run: impl Fn(wgpu::BufferBinding<'_>)) -> Vec<f32> {
    let w = gpu.upload("w", &vec![7.0f32; (rows * cols.next_multiple_of(4)) as usize]);
    run(w.as_entire_buffer_binding());
    unpad(&read(gpu, &w), cols as usize)
}

fn uniform(gpu: &Gpu, shape: [u32; 2], names: [u32; 2], bounds: [f32; 2]) -> Vec<f32> {
    let ([rows, cols], [seed, stream], [low, high]) = (shape, names, bounds);
    let params = InitializeUniformParams { first_row: 0, rows, cols, seed, stream, low, high };
    draw(gpu, rows, cols, |w| gpu.run(&InitializeUniform { params, w }))
}

fn normal(gpu: &Gpu, shape: [u32; 2], names: [u32; 2], moments: [f32; 2]) -> Vec<f32> {
    let ([rows, cols], [seed, stream], [mean, deviation]) = (shape, names, moments);
    let params = InitializeNormalParams { first_row: 0, rows, cols, seed, stream, mean, deviation };
    draw(gpu, rows, cols, |w| gpu.run(&InitializeNormal { params, w }))
}

/// Sizes around a quad and a workgroup, rows that start at each of the four words of a block.
const SHAPES: &[[u32; 2]] =
    &[[1, 1], [5, 3], [1, 4], [7, 5], [6, 6], [3, 255], [2, 256], [3, 257], [1, 1009]];

/// Rows that are drawn apart are those of the tensor that is drawn as a whole.
#[track_caller]
fn assert_same_in_parts(whole: &[f32], cols: u32, part: impl Fn(u32, u32) -> Vec<f32>) {
    let rows = whole.len() as u32 / cols;
    let parts: Vec<_> =
        (0..rows).step_by(3).map(|first| part(first, 3.min(rows - first))).collect();
    assert_eq!(parts.concat(), whole, "{rows} rows of {cols}");
}

fn fill(gpu: &Gpu) {
    for &[rows, cols] in SHAPES {
        let params = FillParams { rows, cols, value: -0.3 };
        let w = draw(gpu, rows, cols, |w| gpu.run(&Fill { params, w }));
        let expected = reference::random::fill((rows * cols) as usize, f64::from(-0.3f32));
        let exact = Tolerance { absolute: 0.0, relative: 0.0, because: "one value" };
        assert_close("fill", &w, &expected, exact);
    }
}

fn initialize_uniform(gpu: &Gpu) {
    for &shape in SHAPES {
        let count = (shape[0] * shape[1]) as usize;
        for ([low, high], tolerance) in [([0.0, 1.0], 0.0), ([-3.0, 5.0], 6e-7)] {
            let w = uniform(gpu, shape, [42, 7], [low, high]);
            let expected =
                reference::random::initialize_uniform(count, 42, 7, [low.into(), high.into()]);
            let tolerance = Tolerance {
                absolute: tolerance,
                relative: 0.0,
                because: "two products and a sum of magnitude 4; exact in (0, 1)",
            };
            assert_close(&format!("initialize_uniform {shape:?}"), &w, &expected, tolerance);
            let cols = shape[1];
            assert_same_in_parts(&w, cols, |first_row, rows| {
                let (seed, stream) = (42, 7);
                let params =
                    InitializeUniformParams { first_row, rows, cols, seed, stream, low, high };
                draw(gpu, rows, cols, |w| gpu.run(&InitializeUniform { params, w }))
            });
        }
    }
    let w = uniform(gpu, [197, 101], [3, 4], [-0.5, 2.0]);
    let cdf = |x: f64| ((x + 0.5) / 2.5).clamp(0.0, 1.0);
    assert!(w.iter().all(|w| (-0.5..=2.0).contains(w)), "out of bounds");
    check_distribution(&w, cdf);
    check_streams(|shape, names| uniform(gpu, shape, names, [-1.0, 1.0]));
}

fn initialize_normal(gpu: &Gpu) {
    let tolerance = Tolerance {
        absolute: 1e-6,
        relative: 1e-6,
        because: "rounding in two polynomials of degree 8, the driver's log and sqrt",
    };
    for &shape in SHAPES.iter().chain(&[[100, 999]]) {
        let count = (shape[0] * shape[1]) as usize;
        for moments in [[0.0, 1.0], [0.5, 0.02]] {
            let w = normal(gpu, shape, [42, 7], moments);
            let expected =
                reference::random::initialize_normal(count, 42, 7, moments.map(f64::from));
            assert_close(&format!("initialize_normal {shape:?}"), &w, &expected, tolerance);
        }
    }
    // GPT-2's residual projections with 12 layers, off centre.
    let deviation = (0.02 / 24f64.sqrt()) as f32;
    let w = normal(gpu, [197, 101], [3, 4], [0.01, deviation]);
    check_distribution(&w, |x| {
        reference::elementwise::normal_cdf((x - 0.01) / f64::from(deviation))
    });
    let mean = w.iter().map(|&x| f64::from(x)).sum::<f64>() / w.len() as f64;
    let variance = w.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / w.len() as f64;
    let ratio = variance.sqrt() / f64::from(deviation);
    assert!((ratio - 1.0).abs() < 0.03, "deviation off by a factor of {ratio}");
    check_streams(|shape, names| normal(gpu, shape, names, [0.0, 1.0]));
}

/// p-value of the Kolmogorov-Smirnov test of a sample against a distribution function, by the
/// asymptotic series with Stephens' correction.
fn kolmogorov_smirnov(sample: &[f32], cdf: impl Fn(f64) -> f64) -> f64 {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f32::total_cmp);
    let n = sorted.len() as f64;
    let distance = sorted.iter().enumerate().fold(0.0f64, |distance, (i, &x)| {
        let f = cdf(f64::from(x));
        distance.max(f - i as f64 / n).max((i + 1) as f64 / n - f)
    });
    let lambda = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * distance;
    let term = |k: i32| (-1f64).powi(k - 1) * (-2.0 * f64::from(k * k) * lambda * lambda).exp();
    (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0)
}

/// The sample follows the distribution, and the test would notice one off by 3 % of its quartiles.
fn check_distribution(sample: &[f32], cdf: impl Fn(f64) -> f64) {
    let p = kolmogorov_smirnov(sample, &cdf);
    assert!(p > 1e-4, "Kolmogorov-Smirnov p = {p:e}");
    let skewed = kolmogorov_smirnov(sample, |x| cdf(x).powf(1.1));
    assert!(skewed < 1e-4, "a wrong distribution passes with p = {skewed}");
}

/// Same names give the same bits, whatever the layout; other names give uncorrelated numbers.
fn check_streams(numbers: impl Fn([u32; 2], [u32; 2]) -> Vec<f32>) {
    let base = numbers([120, 70], [1, 2]);
    let bits = |w: &[f32]| w.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&base), bits(&numbers([120, 70], [1, 2])), "same bits again");
    assert_eq!(bits(&base), bits(&numbers([56, 150], [1, 2])), "same bits in another shape");
    let later = numbers([121, 70], [1, 2])[70..].to_vec();
    let others = [numbers([120, 70], [1, 3]), numbers([120, 70], [2, 2]), later];
    for (i, other) in others.iter().enumerate() {
        let sum = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
        };
        let correlation = sum(&base, other) / (sum(&base, &base) * sum(other, other)).sqrt();
        // The deviation of a chance correlation is 1 / √n.
        let bound = 4.5 / (base.len() as f64).sqrt();
        assert!(correlation.abs() < bound, "stream {i}: correlation {correlation}");
    }
}
