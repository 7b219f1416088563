//! Norms, forward and backward, of rows that arithmetic in f32 likes least: a mean large beside the
//! spread, one element unlike all others, squares and sums beyond f32, NaN and Inf. Graphs against
//! their evaluation in f64, each row (of BatchNorm each feature) relative to its own largest element.

use std::collections::HashMap;

use evenkeel::Gpu;
use evenkeel::graph::ops::{AttentionLayout, HeadNorm, QkNorm};
use evenkeel::graph::{Graph, HostData, Phase, Shape, Value};
use evenkeel::nn::Init;
use evenkeel::step::StepInput;

use super::support::recorded::Recorded;
use super::support::{self, values, wide};

tests! {
    row_norms_of_extremes, norms_of_heads_of_extremes, batch_norm_of_extremes,
    wide_rows_with_one_huge_element, values_that_are_not_finite_show, overflowing_sums_show,
}

const EPS: f32 = 1e-5;
/// Relative to the largest element of a row. Both x - mean and 1 / std are good to some units of
/// 2^-24; sums over a row, and dx = rstd (g - mean(g) - xhat mean(g xhat)), lose a few more, most
/// where one xhat is sqrt(count) and its dx all but cancels.
const ROUNDING: f64 = 2e-5;
/// Sums of thousands of small terms onto one that is a thousand times as large, in f32.
const UNEVEN_SUMS: f64 = 1e-3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Norm {
    Layer,
    ResidualLayer,
    Rms,
    ResidualRms,
    Batch,
    Heads(QkNorm),
}

/// About normal, with variance 1.
fn normal(seed: u64, count: usize) -> Vec<f32> {
    values(seed, 3 * count).chunks(3).map(|u| u[0] + u[1] + u[2]).collect()
}

/// A name and `count` values, a multiple of 4.
fn extremes(count: usize) -> Vec<(&'static str, Vec<f32>)> {
    let noise = normal(41, count);
    let of = |f: &dyn Fn(usize, f32) -> f32| -> Vec<f32> {
        noise.iter().enumerate().map(|(i, &n)| f(i, n)).collect()
    };
    let first =
        |huge: f32, f: &dyn Fn(usize, f32) -> f32| of(&|i, n| if i == 0 { huge } else { f(i, n) });
    vec![
        ("ordinary", noise.clone()),
        ("offset", of(&|i, _| 1e4 + i as f32 / 1000.0)),
        ("negative offset", of(&|_, n| -3e6 + n)),
        ("one unit apart", of(&|i, _| if i == 5 { 1e4f32.next_up() } else { 1e4 })),
        ("first unlike the others", first(1e4, &|_, n| n)),
        ("first unlike others with an offset", first(1e6, &|_, n| 1e4 + 1e-3 * n)),
        ("last unlike the others", of(&|i, n| if i + 1 == count { -1e5 } else { n })),
        ("squares overflow", of(&|i, _| [1e30, -1e30, 2e30, 0.0][i % 4])),
        ("squares barely overflow", of(&|_, n| 1e19 * n)),
        ("squares overflow beside an offset", of(&|_, n| 1e30 + 1e26 * n)),
        ("one square overflows", first(-2e25, &|_, n| n)),
        ("sums overflow", of(&|i, _| [f32::MAX, 3e38, -f32::MAX, 2.9e38][i % 4])),
        ("near the largest", of(&|_, n| 3.3e38 + 1e36 * n)),
        ("all the largest", vec![f32::MAX; count]),
        ("tiny", of(&|_, n| 1e-30 * n)),
        ("tiny but one", first(1.0, &|_, n| 1e-30 * n)),
        ("zeros", vec![0.0; count]),
    ]
}

struct Case {
    norm: Norm,
    graph: Graph,
    data: HostData,
    y: Value,
    loss: Value,
}

/// mean((y - target)^2) of the norm of x (rows, cols); of features where it is BatchNorm.
fn case(norm: Norm, x: &[f32], residual: &[f32], cols: usize) -> Case {
    let rows = x.len() / cols;
    let width = if matches!(norm, Norm::Heads(_)) { cols / 4 } else { cols };
    let mut graph = Graph::new(Phase::Train);
    let mut data = HashMap::new();
    let mut leaf = |graph: &mut Graph, name: &str, dims: &[usize], data_of: &[f32]| {
        data.insert(name.to_owned(), wide(data_of));
        graph.parameter(name, dims, Init::ZERO)
    };
    // Parameters are finite: what is not comes as a factor of 1.
    let finite: Vec<_> = x.iter().map(|&x| if x.is_finite() { x } else { 1.0 }).collect();
    let mut vx = leaf(&mut graph, "x", &[rows, cols], &finite);
    let weight = leaf(&mut graph, "weight", &[width], &values(51, width));
    let second = leaf(&mut graph, "second", &[width], &values(52, width));
    if finite != x {
        let factors: Vec<_> = x.iter().map(|&x| if x.is_finite() { 1.0 } else { x }).collect();
        let factors = graph.constant("factors", Shape::real([rows, cols]), &factors);
        vx = graph.multiply(vx, factors);
    }
    let y = match norm {
        Norm::Layer => graph.layer_norm(vx, weight, second, EPS),
        Norm::Rms => graph.rms_norm(vx, weight, EPS),
        Norm::ResidualLayer | Norm::ResidualRms => {
            let r = graph.constant("residual", Shape::real([rows, cols]), residual);
            match norm {
                Norm::ResidualRms => graph.residual_rms_norm(vx, r, weight, EPS).0,
                _ => graph.residual_layer_norm(vx, r, weight, second, EPS).0,
            }
        }
        Norm::Batch => {
            let names = [("running_mean", 0.0), ("running_var", 1.0)];
            let running = graph.state(&names, cols);
            data.insert("running_mean".to_owned(), vec![0.0; cols]);
            data.insert("running_var".to_owned(), vec![1.0; cols]);
            let (y, statistics) = graph.batch_norm(vx, weight, second, EPS);
            graph.update_running(running, statistics, vx, 0.25);
            y
        }
        Norm::Heads(kind) => {
            let layout = AttentionLayout { heads: 2, kv_heads: 1, head_dim: width };
            let norm = HeadNorm { layout, kind, eps: EPS, weight_offset: 0.0 };
            graph.head_norm(vx, [weight, second], norm)
        }
    };
    let target = graph.constant("target", Shape::real([rows, cols]), &values(53, x.len()));
    let weights = graph.constant("weights", Shape::real([rows, cols]), &values(54, x.len()));
    // A gradient of y that is not y: the norm would not let any of it through.
    let product = graph.multiply(y, weights);
    let loss = graph.mean_squared_error(product, target);
    graph.backward(loss, 1.0);
    Case { norm, graph, data: HostData { values: data, step: StepInput::default() }, y, loss }
}

/// Compares `group` by group, relative to the largest element expected in it.
fn compare(
    what: &str,
    (actual, expected): (&[f32], &[f64]),
    group: usize,
    names: &[&str],
    rounding: f64,
) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (g, (actual, expected)) in actual.chunks(group).zip(expected.chunks(group)).enumerate() {
        let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
        for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
            let error = (f64::from(a) - e).abs();
            // A device may flush what is subnormal.
            let allowed = rounding * largest + 2.4e-38;
            let name = names.get(g % names.len().max(1)).unwrap_or(&"all");
            assert!(error <= allowed, "{what}, {name} [{i}]: {a:e}, not {e:e} of {largest:e}");
        }
    }
}

fn transposed<T: Copy>(x: &[T], cols: usize) -> Vec<T> {
    (0..x.len()).map(|i| x[i % (x.len() / cols) * cols + i / (x.len() / cols)]).collect()
}

impl Case {
    /// y, the gradient of x, and those of both parameters, on the device.
    fn run(&self, gpu: &Gpu) -> ([Vec<f32>; 4], Vec<f32>) {
        let recorded = Recorded::new(gpu, &self.graph, &self.data, &[self.loss, self.y]);
        recorded.run(&recorded.plan.first);
        let [x, weight, second] = [0, 1, 2].map(|index| recorded.gradient(index));
        let staged = if self.norm == Norm::Batch { recorded.staged(0) } else { Vec::new() };
        ([recorded.output(1), x, weight, second], staged)
    }

    fn check(&self, gpu: &Gpu, group: usize, names: &[&str]) {
        self.check_within(gpu, group, names, ROUNDING);
    }

    fn check_within(&self, gpu: &Gpu, group: usize, names: &[&str], rounding: f64) {
        let evaluation = self.graph.evaluate(&self.data);
        let gradients = self.graph.evaluated_gradients(&evaluation);
        let ([y, dx, dweight, second], staged) = self.run(gpu);
        let what = |part: &str| format!("{part} of {:?}", self.norm);
        let features = self.norm == Norm::Batch;
        let cols = if features { dweight.len() } else { group };
        let pairs = [("y", &y, evaluation.get(self.y)), ("dx", &dx, &gradients[0])];
        for (part, actual, expected) in pairs {
            if features {
                let actual = transposed(actual, cols);
                compare(
                    &what(part),
                    (&actual, &transposed(expected, cols)),
                    group,
                    names,
                    rounding,
                );
            } else {
                compare(&what(part), (actual, expected), group, names, rounding);
            }
        }
        let each = if features { 1 } else { dweight.len() };
        compare(&what("dweight"), (&dweight, &gradients[1]), dweight.len(), &[], rounding);
        compare(&what("dsecond"), (&second, &gradients[2]), each, names, rounding);
        if let [(_, value)] = self.graph.staged() {
            let most = 0.75 + 0.25 * f64::from(f32::MAX);
            let expected: Vec<_> = evaluation.get(*value).iter().map(|x| x.min(most)).collect();
            compare(&what("running statistics"), (&staged, &expected), 1, names, rounding);
        }
    }
}

/// Each device and variant that rows run on.
fn devices() -> impl Iterator<Item = Gpu> {
    [support::gpu(), support::gpu_with_hardware_kernels()].into_iter().flatten()
}

fn row_norms_of_extremes() {
    for gpu in devices() {
        for cols in [16, 260] {
            let (names, rows): (Vec<_>, Vec<_>) = extremes(cols).into_iter().unzip();
            let x = rows.concat();
            for norm in [Norm::Layer, Norm::Rms] {
                case(norm, &x, &[], cols).check(&gpu, cols, &names);
            }
            // Two halves, whose sum is exact.
            let half: Vec<_> = x.iter().map(|x| 0.5 * x).collect();
            for norm in [Norm::ResidualLayer, Norm::ResidualRms] {
                case(norm, &half, &half, cols).check(&gpu, cols, &names);
            }
        }
    }
}

/// Of the queries in column 0, the key in column 2; the values beside them are copied.
fn norms_of_heads_of_extremes() {
    let Some(gpu) = support::gpu() else { return };
    for (kind, head_dim) in [(QkNorm::Layer, 16), (QkNorm::Rms, 16), (QkNorm::Layer, 128)] {
        let (names, heads): (Vec<_>, Vec<_>) = extremes(head_dim).into_iter().unzip();
        // Each kind of head as a query, as a key, and as a value.
        let columns = |i: usize| [0, 5, 3, 0].map(|shift| heads[(i + shift) % heads.len()].clone());
        let x = (0..heads.len()).flat_map(|i| columns(i).concat()).collect::<Vec<_>>();
        let names: Vec<_> = (0..heads.len())
            .flat_map(|i| [0, 5, 3, 0].map(|s| names[(i + s) % names.len()]))
            .collect();
        // Values as large as these would leave nothing of the loss.
        let x: Vec<_> = x
            .chunks(head_dim)
            .enumerate()
            .flat_map(|(head, x)| x.iter().map(move |&x| if head % 4 == 3 { 0.5 } else { x }))
            .collect();
        case(Norm::Heads(kind), &x, &[], 4 * head_dim).check(&gpu, head_dim, &names);
    }
}

fn batch_norm_of_extremes() {
    for gpu in devices() {
        for rows in [16, 260] {
            let (names, features): (Vec<_>, Vec<_>) = extremes(rows).into_iter().unzip();
            let x = transposed(&features.concat(), rows);
            case(Norm::Batch, &x, &[], features.len()).check(&gpu, rows, &names);
        }
    }
}

/// Thousands of ordinary elements beside one that is a thousand times as large.
fn wide_rows_with_one_huge_element() {
    for gpu in devices() {
        let cols = 12_288;
        for at in [0, 7, cols - 1] {
            let mut x = normal(61, cols);
            x[at] = 1e4;
            for norm in [Norm::Layer, Norm::Rms] {
                case(norm, &x, &[], cols).check_within(&gpu, cols, &["one huge"], UNEVEN_SUMS);
            }
            case(Norm::Batch, &x, &[], 1).check_within(&gpu, cols, &["one huge"], UNEVEN_SUMS);
        }
    }
}

/// NaN or Inf anywhere in a row is in all of its output and gradient, and in nothing of the others.
fn values_that_are_not_finite_show() {
    let Some(gpu) = support::gpu() else { return };
    let finite = |values: &[f32]| values.iter().all(|x| x.to_bits() & 0x7f80_0000 != 0x7f80_0000);
    let hidden = |values: &[f32]| values.iter().any(|x| x.to_bits() & 0x7f80_0000 != 0x7f80_0000);
    let norms = [Norm::Layer, Norm::ResidualLayer, Norm::Rms, Norm::ResidualRms, Norm::Batch];
    let heads = [Norm::Heads(QkNorm::Layer), Norm::Heads(QkNorm::Rms)];
    for norm in norms.into_iter().chain(heads) {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 6] {
                let cols = if norm == Norm::Batch { 3 } else { 32 };
                let mut x = values(71, 3 * cols);
                let zeros = vec![0.0; x.len()];
                // In row 1; of BatchNorm in feature `at % 3`.
                x[cols + at % cols] = bad;
                let ([y, dx, dweight, second], _) = case(norm, &x, &zeros, cols).run(&gpu);
                let what = format!("{norm:?} with {bad} at {at}");
                // The group that the number is in, and the length of the groups.
                let (own, length) = match norm {
                    Norm::Batch => (at % 3, 3),
                    Norm::Heads(_) => (4, 8),
                    _ => (1, cols),
                };
                for tensor in [y, dx] {
                    let batch = norm == Norm::Batch;
                    let tensor = if batch { transposed(&tensor, cols) } else { tensor };
                    for (g, values) in tensor.chunks(length).enumerate() {
                        if g == own {
                            assert!(!hidden(values), "{what} is hidden: {values:?}");
                        } else {
                            assert!(finite(values), "{what} leaks into {g}: {values:?}");
                        }
                    }
                }
                assert!(!finite(&dweight), "{what}: {dweight:?}");
                let has_bias = matches!(norm, Norm::Layer | Norm::ResidualLayer | Norm::Batch);
                assert!(!has_bias || !finite(&second), "{what}: {second:?}");
            }
        }
    }
}

/// A residual sum beyond f32 is no row of zeros.
fn overflowing_sums_show() {
    let Some(gpu) = support::gpu() else { return };
    for norm in [Norm::ResidualLayer, Norm::ResidualRms] {
        for sign in [1.0, -1.0] {
            let mut x = values(81, 64);
            let mut residual = values(82, 64);
            (x[40], residual[40]) = (sign * 2e38, sign * 2e38);
            let ([y, dx, dweight, _], _) = case(norm, &x, &residual, 32).run(&gpu);
            for tensor in [&y, &dx] {
                assert!(tensor[..32].iter().all(|x| x.is_finite()), "{norm:?}: {tensor:?}");
                assert!(tensor[32..].iter().all(|x| !x.is_finite()), "{norm:?}: {tensor:?}");
            }
            assert!(dweight.iter().all(|x| !x.is_finite()), "{norm:?}: {dweight:?}");
        }
    }
}
