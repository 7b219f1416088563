//! Every operation in the middle of a graph, in f64 on the CPU: analytic gradients against central
//! differences.
//!
//! An operation tested only as the final loss hides a dropped upstream gradient, because there the
//! upstream is 1. So each input is used twice and each output is scaled by 3.7 and weighted before
//! it reaches the loss.

mod support;

use std::collections::HashMap;

use evenkeel::graph::ops::{AttentionLayout, CrossEntropy};
use evenkeel::graph::{Graph, HostData, Phase, Shape, Value};
use evenkeel::kernels::Activation;
use evenkeel::nn::Init;
use evenkeel::step::StepInput;
use evenkeel::train::IGNORE;
use support::{tokens, values, wide};

/// A graph under test: its leaves' values and its loss.
struct Case {
    graph: Graph,
    data: HostData,
    seed: u64,
}

impl Case {
    fn new() -> Self {
        let step = StepInput { seed: 11, step: 3, microbatch: 1, learning_rate_factor: 1.0 };
        let data = HostData { values: HashMap::new(), step };
        Self { graph: Graph::new(Phase::Train), data, seed: 1 }
    }

    /// A differentiable leaf with values in [-1, 1), used twice: x + 0.5 x.
    fn variable(&mut self, name: &str, dims: &[usize]) -> Value {
        let leaf = self.graph.parameter(name, dims, Init::ZERO);
        self.seed += 1;
        let count = dims.iter().product();
        self.data.values.insert(name.to_owned(), wide(&values(self.seed, count)));
        let half = self.graph.scale(leaf, 0.5);
        self.graph.add(leaf, half)
    }

    fn tokens(&mut self, name: &str, dims: &[usize], bound: usize) -> Value {
        self.seed += 1;
        let ids = tokens(self.seed, dims.iter().product(), bound as u32);
        self.data.values.insert(name.to_owned(), ids.into_iter().map(f64::from).collect());
        self.graph.tokens(name, dims, bound)
    }

    /// Uses a real output in the middle of the graph: scaled by 3.7, weighted, summed up.
    fn finish(mut self, output: Value) {
        let loss = self.consume(output);
        self.check(loss);
    }

    fn consume(&mut self, output: Value) -> Value {
        let scaled = self.graph.scale(output, 3.7);
        let shape = Shape::real(self.graph.shape(scaled).dims.clone());
        self.seed += 1;
        let weights = values(self.seed, shape.count());
        let weights = self.graph.constant("weights", shape, &weights);
        self.graph.mean_squared_error(scaled, weights)
    }

    /// Compares the gradient of every element of every parameter with a central difference.
    fn check(mut self, loss: Value) {
        self.graph.backward(loss, 1.0);
        let graph = &self.graph;
        let gradients = graph.evaluated_gradients(&graph.evaluate(&self.data));
        for (parameter, analytic) in graph.parameters().iter().zip(&gradients) {
            let mut moved = self.data.clone();
            for (i, &analytic) in analytic.iter().enumerate() {
                let x = self.data.values[&parameter.name][i];
                let step = 1e-5;
                let mut at = |x: f64| {
                    moved.values.get_mut(&parameter.name).expect("a leaf")[i] = x;
                    graph.evaluate(&moved).get(loss)[0]
                };
                let numeric = (at(x + step) - at(x - step)) / (2.0 * step);
                at(x);
                // Central differences: step² f''' and rounding / step, both about 1e-10.
                let allowed = 1e-7 * (1.0 + analytic.abs());
                assert!(
                    (numeric - analytic).abs() < allowed,
                    "{}[{i}]: analytic {analytic}, numeric {numeric}",
                    parameter.name
                );
            }
            assert!(
                analytic.iter().any(|&g| g != 0.0),
                "{} has no gradient at all",
                parameter.name
            );
        }
    }
}

#[test]
fn add_multiply_scale() {
    let mut case = Case::new();
    let a = case.variable("a", &[3, 5]);
    let b = case.variable("b", &[3, 5]);
    let sum = case.graph.add(a, b);
    let product = case.graph.multiply(sum, b);
    let scaled = case.graph.scale(product, -1.3);
    case.finish(scaled);
}

#[test]
fn activations() {
    for kind in Activation::ALL {
        let mut case = Case::new();
        let x = case.variable("x", &[3, 5]);
        let y = case.graph.activation(x, kind);
        case.finish(y);
    }
}

#[test]
fn swiglu() {
    let mut case = Case::new();
    let x = case.variable("x", &[3, 8]);
    let y = case.graph.swiglu(x);
    case.finish(y);
}

#[test]
fn soft_cap() {
    let mut case = Case::new();
    let x = case.variable("x", &[3, 5]);
    let y = case.graph.soft_cap(x, 0.8);
    case.finish(y);
}

#[test]
fn dropout() {
    let mut case = Case::new();
    let x = case.variable("x", &[5, 9]);
    let y = case.graph.dropout(x, 0.4);
    case.finish(y);
}

#[test]
fn linear() {
    for kind in [Activation::None, Activation::GeluTanh, Activation::Relu] {
        for has_bias in [true, false] {
            let mut case = Case::new();
            let x = case.variable("x", &[2, 3, 5]);
            let weight = case.variable("weight", &[7, 5]);
            let bias = has_bias.then(|| case.variable("bias", &[7]));
            let y = case.graph.linear(x, weight, bias, kind);
            case.finish(y);
        }
    }
}

#[test]
fn matmul() {
    for (a, b) in [([4, 5], [5, 3]), ([1, 7], [7, 6])] {
        let mut case = Case::new();
        let a = case.variable("a", &a);
        let b = case.variable("b", &b);
        let y = case.graph.matmul(a, b);
        case.finish(y);
    }
}

#[test]
fn matmul_transposed_and_batched() {
    let mut case = Case::new();
    let a = case.variable("a", &[2, 4, 5]);
    let b = case.variable("b", &[2, 3, 5]);
    let c = case.graph.matmul_transposed_b(a, b); // (2, 4, 3)
    let d = case.variable("d", &[2, 4, 6]);
    let y = case.graph.matmul_transposed_a(c, d); // (2, 3, 6)
    case.finish(y);
}

#[test]
fn softmax_and_log_sum_exp() {
    let mut case = Case::new();
    let x = case.variable("x", &[4, 5]);
    let y = case.graph.softmax(x);
    case.finish(y);

    let mut case = Case::new();
    let x = case.variable("x", &[4, 5]);
    let lengths = case.tokens("lengths", &[4], 6);
    case.data.values.insert("lengths".into(), vec![5.0, 3.0, 0.0, 1.0]);
    let y = case.graph.masked_softmax(x, lengths);
    case.finish(y);

    let mut case = Case::new();
    let x = case.variable("x", &[4, 5]);
    let y = case.graph.log_sum_exp(x);
    case.finish(y);
}

#[test]
fn layer_norm() {
    let mut case = Case::new();
    let x = case.variable("x", &[2, 2, 6]);
    let weight = case.variable("weight", &[6]);
    let bias = case.variable("bias", &[6]);
    let y = case.graph.layer_norm(x, weight, bias, 1e-3);
    case.finish(y);
}

#[test]
fn rms_norm() {
    let mut case = Case::new();
    let x = case.variable("x", &[4, 6]);
    let weight = case.variable("weight", &[6]);
    let y = case.graph.rms_norm(x, weight, 1e-3);
    case.finish(y);
}

/// Which outputs of a residual norm are used further.
#[derive(Clone, Copy, PartialEq)]
enum Used {
    Norm,
    Sum,
    Both,
}

#[test]
fn residual_norms() {
    for rms in [false, true] {
        for used in [Used::Norm, Used::Sum, Used::Both] {
            let mut case = Case::new();
            let x = case.variable("x", &[4, 6]);
            let residual = case.variable("residual", &[4, 6]);
            let weight = case.graph.parameter("weight", [6], Init::ONE);
            case.data.values.insert("weight".into(), wide(&values(9, 6)));
            let (y, sum) = if rms {
                case.graph.residual_rms_norm(x, residual, weight, 1e-3)
            } else {
                let bias = case.graph.parameter("bias", [6], Init::ZERO);
                case.data.values.insert("bias".into(), wide(&values(10, 6)));
                case.graph.residual_layer_norm(x, residual, weight, bias, 1e-3)
            };
            let output = match used {
                Used::Norm => y,
                Used::Sum => sum,
                Used::Both => case.graph.multiply(y, sum),
            };
            if used == Used::Sum {
                // The norm's own parameters do not matter then; give them a gradient elsewhere.
                let zero = case.graph.rms_norm(output, weight, 1e-3);
                let output = case.graph.add(output, zero);
                let output = match case.graph.parameters().len() {
                    4 => {
                        let bias = case.graph.parameter("bias", [6], Init::ZERO);
                        case.graph.layer_norm(output, weight, bias, 1e-3)
                    }
                    _ => output,
                };
                case.finish(output);
            } else {
                case.finish(output);
            }
        }
    }
}

#[test]
fn batch_norm() {
    let mut case = Case::new();
    let x = case.variable("x", &[6, 5]);
    let weight = case.variable("weight", &[5]);
    let bias = case.variable("bias", &[5]);
    let (y, _) = case.graph.batch_norm(x, weight, bias, 1e-3);
    case.finish(y);
}

#[test]
fn embedding_and_positions() {
    let mut case = Case::new();
    let table = case.variable("table", &[7, 6]);
    let tokens = case.tokens("tokens", &[2, 3], 7);
    let x = case.graph.embedding(table, tokens);
    let positions = case.variable("positions", &[5, 6]);
    let y = case.graph.add_positions(x, positions);
    case.finish(y);
}

#[test]
fn rotary() {
    let mut case = Case::new();
    let x = case.variable("x", &[2, 5, 20]);
    let y = case.graph.rotary(x, 2, 8, 100.0);
    case.finish(y);
}

#[test]
fn attention() {
    for (heads, kv_heads, soft_cap) in [(2, 2, None), (4, 2, None), (2, 1, Some(0.7))] {
        let mut case = Case::new();
        let layout = AttentionLayout { heads, kv_heads, head_dim: 4 };
        let qkv = case.variable("qkv", &[2, 5, (heads + 2 * kv_heads) * 4]);
        let y = case.graph.attention(qkv, layout, soft_cap);
        case.finish(y);
    }
}

#[test]
fn cross_entropy() {
    for settings in [
        CrossEntropy::default(),
        CrossEntropy { label_smoothing: 0.1, z_loss: 0.0 },
        CrossEntropy { label_smoothing: 0.2, z_loss: 1e-2 },
    ] {
        let mut case = Case::new();
        let logits = case.variable("logits", &[2, 3, 5]);
        let targets = case.tokens("targets", &[2, 3], 5);
        case.data.values.get_mut("targets").expect("targets")[4] = f64::from(IGNORE);
        let loss = case.graph.cross_entropy(logits, targets, settings);
        let loss = case.consume(loss);
        case.check(loss);
    }
}

#[test]
fn mean_squared_error() {
    let mut case = Case::new();
    let prediction = case.variable("prediction", &[3, 5]);
    let expected = case.variable("expected", &[3, 5]);
    let loss = case.graph.mean_squared_error(prediction, expected);
    let loss = case.consume(loss);
    case.check(loss);
}
