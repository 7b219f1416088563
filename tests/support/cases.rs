//! Graphs that together use every operation in the middle, with data. `gradients` differentiates
//! them on the CPU, `plan` runs them on the device.
//!
//! An operation tested only as the final loss hides a dropped upstream gradient, because there the
//! upstream is 1. So each output is scaled by 3.7 and compared with weights before it reaches the
//! loss, and the loss itself enters the backward pass with a factor.

use std::collections::{BTreeSet, HashMap};

use evenkeel::Precision;
use evenkeel::graph::ops::{
    AttentionLayout, AttentionSettings, CrossEntropy, HeadNorm, LinearCrossEntropy, QkNorm,
};
use evenkeel::graph::{Graph, HostData, Phase, Shape, Source, Value};
use evenkeel::kernels::Activation;
use evenkeel::nn::Init;
use evenkeel::step::StepInput;
use evenkeel::train::IGNORE;

use super::{adapter_cases, tokens, values, wide};

/// What [`Graph::backward`] gets: no power of one, so that a lost factor shows.
pub const FACTOR: f32 = 0.75;

/// How the differentiable leaves of a case are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// As they are: one contribution to each gradient, which an operation may write in place.
    Once,
    /// As x + 0.5 x: contributions are added up, and none is written in place.
    Twice,
    /// In turn.
    Mixed,
    /// As x + 0.5 x, with operations that store their values in this precision.
    Stored(Precision),
}

/// A graph with its data, differentiated where it has a loss.
pub struct Case {
    pub name: String,
    pub graph: Graph,
    pub data: HostData,
    /// One number, differentiated; `None` for a graph that only runs forward.
    pub loss: Option<Value>,
    /// What the operation under test gives.
    pub output: Value,
}

impl Case {
    /// Types and names of the operations in the graph.
    pub fn operations(&self) -> BTreeSet<(String, &'static str)> {
        let ops = self.graph.nodes().iter().filter_map(|node| match &node.source {
            Source::Op(op) => {
                let text = format!("{op:?}");
                let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
                Some((text[..end].to_owned(), op.name()))
            }
            _ => None,
        });
        ops.collect()
    }
}

/// A case in the making.
pub struct Builder {
    pub graph: Graph,
    pub data: HostData,
    name: String,
    leaves: Leaves,
    made: usize,
    seed: u64,
}

impl Builder {
    pub fn new(name: impl Into<String>, leaves: Leaves) -> Self {
        let step = StepInput {
            seed: 11,
            step: 3,
            microbatch: 1,
            learning_rate_factor: 1.0,
            first_microbatch: 0,
        };
        let data = HostData { values: HashMap::new(), step };
        let precision = match leaves {
            Leaves::Stored(precision) => precision,
            _ => Precision::F32,
        };
        let graph = Graph::in_precision(Phase::Train, precision);
        Self { graph, data, name: name.into(), leaves, made: 0, seed: 1 }
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        self.seed += 1;
        values(self.seed, count)
    }

    /// A differentiable leaf with values in [-1, 1).
    pub fn variable(&mut self, name: &str, dims: &[usize]) -> Value {
        let leaf = self.graph.parameter(name, dims, Init::ZERO);
        let data = self.values(dims.iter().product());
        self.data.values.insert(name.to_owned(), wide(&data));
        self.made += 1;
        let twice = match self.leaves {
            Leaves::Once => false,
            Leaves::Twice | Leaves::Stored(_) => true,
            Leaves::Mixed => self.made.is_multiple_of(2),
        };
        if !twice {
            return leaf;
        }
        let half = self.graph.scale(leaf, 0.5);
        self.graph.add(leaf, half)
    }

    /// The same as a constant.
    fn constant(&mut self, name: &str, dims: &[usize]) -> Value {
        let data = self.values(dims.iter().product());
        self.graph.constant(name, Shape::real(dims), &data)
    }

    pub fn tokens(&mut self, name: &str, dims: &[usize], bound: usize) -> Value {
        self.seed += 1;
        let ids = tokens(self.seed, dims.iter().product(), bound as u32);
        self.data.values.insert(name.to_owned(), ids.into_iter().map(f64::from).collect());
        self.graph.tokens(name, dims, bound)
    }

    /// Turns an output of any shape into one number: scaled by 3.7, compared with weights.
    pub fn consume(&mut self, output: Value) -> Value {
        let scaled = self.graph.scale(output, 3.7);
        let dims = self.graph.shape(scaled).dims.clone();
        let weights = self.constant("weights", &dims);
        self.graph.mean_squared_error(scaled, weights)
    }

    /// Uses a real output in the middle of the graph.
    pub fn finish(mut self, output: Value) -> Case {
        let loss = self.consume(output);
        self.graph.backward(loss, FACTOR);
        let Self { name, graph, data, .. } = self;
        Case { name, graph, data, loss: Some(loss), output }
    }

    /// Only runs forward.
    pub fn forward(self, output: Value) -> Case {
        let Self { name, graph, data, .. } = self;
        Case { name, graph, data, loss: None, output }
    }
}

/// All cases.
pub fn all(leaves: Leaves) -> Vec<Case> {
    let families: &[fn(Leaves) -> Vec<Case>] = &[
        elementwise,
        linear,
        feed_forward,
        adapter_cases::adapted,
        adapter_cases::scaled_columns,
        matmul,
        softmax,
        row_norm,
        residual_norm,
        batch_norm,
        embedding,
        attention,
        head_norm,
        cross_entropy,
        linear_cross_entropy,
        recomputed,
        mean_squared_error,
        weighted_statistics,
    ];
    families.iter().flat_map(|family| family(leaves)).collect()
}

fn elementwise(leaves: Leaves) -> Vec<Case> {
    let mut case = Builder::new("add, multiply, scale", leaves);
    let a = case.variable("a", &[3, 5]);
    let b = case.variable("b", &[3, 5]);
    let sum = case.graph.add(a, b);
    let product = case.graph.multiply(sum, b);
    let scaled = case.graph.scale(product, -1.3);
    let mut cases = vec![case.finish(scaled)];

    let unary = |name: &str, dims: &[usize], apply: &dyn Fn(&mut Graph, Value) -> Value| {
        let mut case = Builder::new(name, leaves);
        let x = case.variable("x", dims);
        let y = apply(&mut case.graph, x);
        case.finish(y)
    };
    for kind in Activation::ALL {
        cases.push(unary(&format!("{kind:?}"), &[3, 5], &|g, x| g.activation(x, kind)));
    }
    cases.push(unary("swiglu", &[3, 8], &|g, x| g.swiglu(x)));
    for kind in [Activation::GeluTanh, Activation::GeluErf, Activation::Tanh] {
        cases.push(unary(&format!("gated by {kind:?}"), &[3, 8], &|g, x| g.gated(x, kind)));
    }
    cases.push(unary("soft cap", &[3, 5], &|g, x| g.soft_cap(x, 0.8)));
    cases.push(unary("dropout", &[5, 9], &|g, x| g.dropout(x, 0.4)));
    cases
}

/// There and back between f32 and halves: the f64 evaluation does not round, so these agree with it
/// only as halves do.
pub fn casts(leaves: Leaves) -> Vec<Case> {
    let both = [Precision::F16, Precision::Bf16].into_iter();
    both.map(|precision| {
        let mut case = Builder::new(format!("cast to {precision}"), leaves);
        let x = case.variable("x", &[3, 5]);
        let half = case.graph.cast(x, precision);
        let y = case.graph.cast(half, Precision::F32);
        case.finish(y)
    })
    .collect()
}

/// y = f(x Wᵀ + b), x (rows.., inputs).
pub fn linear_case(
    leaves: Leaves,
    rows: &[usize],
    [inputs, outputs]: [usize; 2],
    activation: Activation,
    has_bias: bool,
) -> Case {
    let name = format!("linear {activation:?} {rows:?} {inputs} {outputs}, bias {has_bias}");
    let mut case = Builder::new(name, leaves);
    let x = case.variable("x", &[rows, &[inputs]].concat());
    let weight = case.variable("weight", &[outputs, inputs]);
    let bias = has_bias.then(|| case.variable("bias", &[outputs]));
    let y = case.graph.linear(x, weight, bias, activation);
    case.finish(y)
}

fn linear(leaves: Leaves) -> Vec<Case> {
    let kinds = [Activation::None, Activation::GeluTanh, Activation::Relu];
    let both = kinds.into_iter().flat_map(|kind| [(kind, true), (kind, false)]);
    both.map(|(kind, bias)| linear_case(leaves, &[2, 3], [5, 7], kind, bias)).collect()
}

/// Two linear layers with an activation between them, which may be that of a gate: width, hidden and
/// width again. Where they lie `apart`, an operation without effect is behind the activation.
pub fn feed_forward_case(
    leaves: Leaves,
    [rows, width, hidden]: [usize; 3],
    (kind, gated): (Activation, bool),
    apart: bool,
) -> Case {
    let name = format!("feed forward {kind:?} {rows} {width} {hidden}, {gated}, {apart}");
    let mut case = Builder::new(name, leaves);
    let x = case.variable("x", &[rows, width]);
    let first = case.variable("first", &[if gated { 2 * hidden } else { hidden }, width]);
    let second = case.variable("second", &[width, hidden]);
    let graph = &mut case.graph;
    let mut y = if gated {
        let both = graph.linear(x, first, None, Activation::None);
        graph.gated(both, kind)
    } else {
        graph.linear(x, first, None, kind)
    };
    if apart {
        y = graph.scale(y, 1.0);
    }
    let y = graph.linear(y, second, None, Activation::None);
    case.finish(y)
}

fn feed_forward(leaves: Leaves) -> Vec<Case> {
    let size = [3, 5, 8];
    let of = |kind, gated| feed_forward_case(leaves, size, (kind, gated), false);
    let mut cases = vec![
        of(Activation::GeluTanh, false),
        of(Activation::Relu, false),
        of(Activation::Silu, true),
        of(Activation::None, true),
    ];
    let mut case = Builder::new("an activation in front of products of several matrices", leaves);
    let (x, b) = (case.variable("x", &[2, 4, 5]), case.variable("b", &[2, 3, 5]));
    let activated = case.graph.activation(x, Activation::Silu);
    let y = case.graph.matmul_transposed_b(activated, b);
    cases.push(case.finish(y));
    let behind = [(Behind::Scale, false), (Behind::Activation, false), (Behind::Gate, false)];
    cases.extend(behind.map(|(behind, apart)| branches_case(leaves, 3, behind, apart)));
    cases.push(biases_case(leaves, 3));
    cases
}

/// The sum of seven linear layers of one value with `rows` rows. The first and the last share a bias,
/// the others have their own.
pub fn biases_case(leaves: Leaves, rows: usize) -> Case {
    let mut case = Builder::new(format!("biases {rows}"), leaves);
    let x = case.variable("x", &[rows, 8]);
    let shared = case.variable("shared", &[8]);
    let layers: Vec<_> = (0..7)
        .map(|layer| {
            let weight = case.variable(&format!("weight {layer}"), &[8, 8]);
            let own = (1..6).contains(&layer);
            let bias = if own { case.variable(&format!("bias {layer}"), &[8]) } else { shared };
            case.graph.module(format!("layers.{layer}"), |graph| {
                graph.linear(x, weight, Some(bias), Activation::None)
            })
        })
        .collect();
    let y = layers.into_iter().reduce(|sum, y| case.graph.add(sum, y)).expect("layers");
    case.finish(y)
}

/// What several linear layers are behind.
#[derive(Clone, Copy, Debug)]
pub enum Behind {
    Scale,
    Activation,
    Gate,
}

/// The sum of three linear layers of one value with `rows` rows, as of a layer and of the adapters
/// beside it. Where they lie `apart`, an operation without effect is in front of each.
pub fn branches_case(leaves: Leaves, rows: usize, behind: Behind, apart: bool) -> Case {
    let mut case = Builder::new(format!("branches {rows} {behind:?} {apart}"), leaves);
    let x = case.variable("x", &[rows, 16]);
    let y = match behind {
        Behind::Scale => case.graph.scale(x, 0.5),
        Behind::Activation => case.graph.activation(x, Activation::GeluTanh),
        Behind::Gate => case.graph.swiglu(x),
    };
    let cols = case.graph.shape(y).cols();
    let mut branch = |name| {
        let weight = case.variable(name, &[7, cols]);
        let y = if apart { case.graph.scale(y, 1.0) } else { y };
        case.graph.linear(y, weight, None, Activation::None)
    };
    let [first, second, third] = ["first", "second", "third"].map(&mut branch);
    let sum = case.graph.add(first, second);
    let sum = case.graph.add(sum, third);
    case.finish(sum)
}

/// Which of the operands is stored transposed.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Ab,
    AbT,
    AtB,
}

/// A product of `batch` matrices, result (rows, cols).
pub fn matmul_case(leaves: Leaves, form: Form, batch: usize, size: [usize; 3]) -> Case {
    let [rows, cols, inner] = size;
    let (a, b) = match form {
        Form::Ab => ([rows, inner], [inner, cols]),
        Form::AbT => ([rows, inner], [cols, inner]),
        Form::AtB => ([inner, rows], [inner, cols]),
    };
    let dims = |[x, y]: [usize; 2]| if batch == 1 { vec![x, y] } else { vec![batch, x, y] };
    let mut case = Builder::new(format!("matmul {form:?} {batch} of {size:?}"), leaves);
    let a = case.variable("a", &dims(a));
    let b = case.variable("b", &dims(b));
    let y = match form {
        Form::Ab => case.graph.matmul(a, b),
        Form::AbT => case.graph.matmul_transposed_b(a, b),
        Form::AtB => case.graph.matmul_transposed_a(a, b),
    };
    case.finish(y)
}

fn matmul(leaves: Leaves) -> Vec<Case> {
    let mut cases = vec![
        matmul_case(leaves, Form::Ab, 1, [4, 3, 5]),
        matmul_case(leaves, Form::Ab, 3, [1, 6, 7]),
        matmul_case(leaves, Form::AbT, 2, [4, 3, 5]),
        matmul_case(leaves, Form::AtB, 2, [3, 6, 5]),
    ];
    let mut case = Builder::new("a product of products", leaves);
    let a = case.variable("a", &[2, 4, 5]);
    let b = case.variable("b", &[2, 3, 5]);
    let c = case.graph.matmul_transposed_b(a, b); // (2, 4, 3)
    let d = case.variable("d", &[2, 4, 6]);
    let y = case.graph.matmul_transposed_a(c, d); // (2, 3, 6)
    cases.push(case.finish(y));
    cases
}

/// What is taken of the rows.
#[derive(Clone, Copy, Debug)]
pub enum RowFunction {
    Softmax,
    /// With lengths from 0 to all columns.
    MaskedSoftmax,
    LogSumExp,
}

pub fn softmax_case(leaves: Leaves, function: RowFunction, [rows, cols]: [usize; 2]) -> Case {
    let mut case = Builder::new(format!("{function:?} ({rows}, {cols})"), leaves);
    let x = case.variable("x", &[rows, cols]);
    let y = match function {
        RowFunction::Softmax => case.graph.softmax(x),
        RowFunction::LogSumExp => case.graph.log_sum_exp(x),
        RowFunction::MaskedSoftmax => {
            let lengths = case.tokens("lengths", &[rows], cols + 1);
            let all = (0..rows).map(|row| ((cols + row * (cols / 2)) % (cols + 1)) as f64);
            case.data.values.insert("lengths".into(), all.collect());
            case.graph.masked_softmax(x, lengths)
        }
    };
    case.finish(y)
}

fn softmax(leaves: Leaves) -> Vec<Case> {
    let functions = [RowFunction::Softmax, RowFunction::MaskedSoftmax, RowFunction::LogSumExp];
    functions.map(|function| softmax_case(leaves, function, [4, 5])).into()
}

pub fn layer_norm_case(leaves: Leaves, rows: &[usize], width: usize) -> Case {
    let mut case = Builder::new(format!("layer norm {rows:?} {width}"), leaves);
    let x = case.variable("x", &[rows, &[width]].concat());
    let weight = case.variable("weight", &[width]);
    let bias = case.variable("bias", &[width]);
    let y = case.graph.layer_norm(x, weight, bias, 1e-2);
    case.finish(y)
}

fn row_norm(leaves: Leaves) -> Vec<Case> {
    let mut case = Builder::new("rms norm", leaves);
    let x = case.variable("x", &[4, 6]);
    let weight = case.variable("weight", &[6]);
    let y = case.graph.rms_norm(x, weight, 1e-3);
    let mut offset = Builder::new("rms norm with weights around 1", leaves);
    let x = offset.variable("x", &[4, 6]);
    let weight = offset.variable("weight", &[6]);
    let z = offset.graph.offset_rms_norm(x, weight, 1.0, 1e-3);
    vec![layer_norm_case(leaves, &[2, 2], 6), case.finish(y), offset.finish(z)]
}

/// Which outputs of a residual norm are used further.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Used {
    Norm,
    Sum,
    Both,
}

fn residual_norm(leaves: Leaves) -> Vec<Case> {
    let mut cases = Vec::new();
    for rms in [false, true] {
        for used in [Used::Norm, Used::Sum, Used::Both] {
            let name = format!("residual {} norm, {used:?}", if rms { "rms" } else { "layer" });
            let mut case = Builder::new(name, leaves);
            let x = case.variable("x", &[4, 6]);
            let residual = case.variable("residual", &[4, 6]);
            // Where only the sum is used, the norm's own parameters have no gradient.
            let leaf = if used == Used::Sum { Builder::constant } else { Builder::variable };
            let weight = leaf(&mut case, "weight", &[6]);
            let (y, sum) = if rms {
                case.graph.residual_rms_norm(x, residual, weight, 1e-3)
            } else {
                let bias = leaf(&mut case, "bias", &[6]);
                case.graph.residual_layer_norm(x, residual, weight, bias, 1e-3)
            };
            let output = match used {
                Used::Norm => y,
                Used::Sum => sum,
                Used::Both => case.graph.multiply(y, sum),
            };
            cases.push(case.finish(output));
        }
    }
    let mut case = Builder::new("residual rms norm with weights around 1", leaves);
    let [x, residual] = ["x", "residual"].map(|name| case.variable(name, &[4, 6]));
    let weight = case.variable("weight", &[6]);
    let (y, sum) = case.graph.residual_offset_rms_norm(x, residual, weight, 1.0, 1e-3);
    let product = case.graph.multiply(y, sum);
    cases.push(case.finish(product));
    cases
}

fn batch_norm(leaves: Leaves) -> Vec<Case> {
    let running = |case: &mut Builder| {
        case.data.values.insert("running_mean".into(), wide(&values(90, 5)));
        case.data.values.insert("running_var".into(), vec![0.5, 1.0, 2.0, 0.25, 3.0]);
        case.graph.state(&[("running_mean", 0.0), ("running_var", 1.0)], 5)
    };
    let mut train = Builder::new("batch norm in training", leaves);
    let x = train.variable("x", &[6, 5]);
    let weight = train.variable("weight", &[5]);
    let bias = train.variable("bias", &[5]);
    let (y, statistics) = train.graph.batch_norm(x, weight, bias, 1e-2);
    let states = running(&mut train);
    train.graph.update_running(states, statistics, x, 0.3);

    let mut evaluate = Builder::new("batch norm in evaluation", leaves);
    let inputs = evaluate.variable("x", &[6, 5]);
    let weight = evaluate.variable("weight", &[5]);
    let bias = evaluate.variable("bias", &[5]);
    let states = running(&mut evaluate);
    let normalized = evaluate.graph.normalize_features(inputs, states, weight, bias, 1e-3);
    vec![train.finish(y), evaluate.forward(normalized)]
}

fn embedding(leaves: Leaves) -> Vec<Case> {
    let mut looked_up = Builder::new("embedding and positions", leaves);
    let table = looked_up.variable("table", &[7, 8]);
    let tokens = looked_up.tokens("tokens", &[2, 3], 7);
    let x = looked_up.graph.embedding(table, tokens);
    // More positions than are used: the others have no gradient.
    let positions = looked_up.variable("positions", &[5, 8]);
    let mut x = looked_up.graph.add_positions(x, positions);
    // Values that nothing keeps: what they leave in their slots must not show in that gradient.
    for factor in [-2.0, 0.5, 1.5] {
        x = looked_up.graph.scale(x, factor);
    }
    let looked_at = x;

    let mut tied = Builder::new("a table that is the head too", leaves);
    let table = tied.variable("table", &[7, 6]);
    let tokens = tied.tokens("tokens", &[2, 3], 7);
    let y = tied.graph.embedding(table, tokens);
    let y = tied.graph.activation(y, Activation::Tanh);
    let y = tied.graph.linear(y, table, None, Activation::None);

    let mut rows = Builder::new("some rows of a value", leaves);
    let x = rows.variable("x", &[1, 5, 6]);
    let x = rows.graph.activation(x, Activation::Tanh);
    let positions = rows.tokens("positions", &[4], 5);
    let some = rows.graph.embedding(x, positions);

    let mut rotary = Builder::new("rotary", leaves);
    let x = rotary.variable("x", &[2, 5, 20]);
    let rotated = rotary.graph.rotary(x, 1, 8, 100.0);
    let rotated = rotary.graph.rotary_by(rotated, 2, vec![0.9, 0.4, 0.2, 0.01]);
    vec![looked_up.finish(looked_at), tied.finish(y), rows.finish(some), rotary.finish(rotated)]
}

pub fn attention_case(
    leaves: Leaves,
    [batch, time]: [usize; 2],
    layout: AttentionLayout,
    settings: AttentionSettings,
) -> Case {
    let AttentionLayout { heads, kv_heads, head_dim } = layout;
    let name = format!("attention ({batch}, {time}) {layout:?}, {settings:?}");
    let mut case = Builder::new(name, leaves);
    let qkv = case.variable("qkv", &[batch, time, (heads + 2 * kv_heads) * head_dim]);
    let y = case.graph.attention(qkv, layout, settings);
    case.finish(y)
}

fn attention(leaves: Leaves) -> Vec<Case> {
    let plain = AttentionSettings::default();
    let capped = AttentionSettings { soft_cap: Some(0.7), ..plain };
    let scaled = AttentionSettings { scale: Some(0.9), window: Some(3), ..capped };
    let windows = [1, 2, 9].map(|window| AttentionSettings { window: Some(window), ..plain });
    let cases = [(2, 2, plain), (4, 2, plain), (2, 1, capped), (4, 2, scaled)];
    let cases = cases.into_iter().chain(windows.map(|settings| (2, 1, settings)));
    let cases = cases.map(|(heads, kv_heads, settings)| {
        let layout = AttentionLayout { heads, kv_heads, head_dim: 4 };
        attention_case(leaves, [2, 5], layout, settings)
    });
    cases.chain([watched(leaves)]).collect()
}

/// An attention and a loss that are watched, behind a soft cap.
fn watched(leaves: Leaves) -> Case {
    let layout = AttentionLayout { heads: 4, kv_heads: 2, head_dim: 4 };
    let mut case = Builder::new("watched attention and loss", leaves);
    let qkv = case.variable("qkv", &[2, 5, 32]);
    let settings = AttentionSettings { soft_cap: Some(0.6), ..AttentionSettings::default() };
    let (y, seen) = case.graph.watched_attention(qkv, layout, settings);
    let weight = case.variable("weight", &[7, 16]);
    let logits = case.graph.linear(y, weight, None, Activation::None);
    let logits = case.graph.soft_cap(logits, 0.9);
    let targets = case.tokens("targets", &[2, 5], 7);
    case.data.values.get_mut("targets").expect("targets")[3] = f64::from(IGNORE);
    let settings = CrossEntropy { label_smoothing: 0.1, z_loss: 1e-2 };
    let (loss, loss_seen) = case.graph.watched_cross_entropy(logits, targets, settings);
    for (name, value) in [
        ("attention.max_logit", seen.max_logit),
        ("attention.entropy", seen.entropy),
        ("max_logit", loss_seen.max_logit),
        ("z_loss", loss_seen.z_loss),
    ] {
        case.graph.observe(name, value);
    }
    case.finish(loss)
}

/// QK-norm of qkv (rows.., (heads + 2 kv_heads) head_dim).
pub fn head_norm_case(
    leaves: Leaves,
    rows: &[usize],
    layout: AttentionLayout,
    kind: QkNorm,
) -> Case {
    let AttentionLayout { heads, kv_heads, head_dim } = layout;
    let mut case = Builder::new(format!("{kind:?} norm of {rows:?} {layout:?}"), leaves);
    let qkv = case.variable("qkv", &[rows, &[(heads + 2 * kv_heads) * head_dim]].concat());
    let weights = ["q_norm", "k_norm"].map(|name| case.variable(name, &[head_dim]));
    let norm = HeadNorm { layout, kind, eps: 1e-2, weight_offset: 0.0 };
    let y = case.graph.head_norm(qkv, weights, norm);
    case.finish(y)
}

fn head_norm(leaves: Leaves) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [QkNorm::Rms, QkNorm::Layer] {
        for (heads, kv_heads, head_dim) in [(2, 2, 4), (4, 2, 8), (3, 1, 12)] {
            let layout = AttentionLayout { heads, kv_heads, head_dim };
            cases.push(head_norm_case(leaves, &[2, 3], layout, kind));
        }
        // With what follows it in a layer: the rotation, the cap, the softmax.
        let layout = AttentionLayout { heads: 2, kv_heads: 1, head_dim: 8 };
        let mut case = Builder::new(format!("attention behind a {kind:?} norm"), leaves);
        let qkv = case.variable("qkv", &[2, 5, 32]);
        let weights = ["q_norm", "k_norm"].map(|name| case.variable(name, &[8]));
        let norm = HeadNorm { layout, kind, eps: 1e-2, weight_offset: 1.0 };
        let qkv = case.graph.head_norm(qkv, weights, norm);
        let qkv = case.graph.rotary(qkv, 3, 8, 100.0);
        let settings = AttentionSettings { soft_cap: Some(0.8), ..AttentionSettings::default() };
        let y = case.graph.attention(qkv, layout, settings);
        cases.push(case.finish(y));
    }
    cases
}

/// Every fourth target is ignored, the first is not.
pub fn cross_entropy_case(
    leaves: Leaves,
    rows: &[usize],
    classes: usize,
    settings: CrossEntropy,
) -> Case {
    let mut case = Builder::new(format!("{settings:?} {rows:?} {classes}"), leaves);
    let logits = case.variable("logits", &[rows, &[classes]].concat());
    let targets = case.tokens("targets", rows, classes);
    let ids = case.data.values.get_mut("targets").expect("targets");
    ids.iter_mut().skip(3).step_by(4).for_each(|id| *id = f64::from(IGNORE));
    let loss = case.graph.cross_entropy(logits, targets, settings);
    case.finish(loss)
}

fn cross_entropy(leaves: Leaves) -> Vec<Case> {
    let settings = [
        CrossEntropy::default(),
        CrossEntropy { label_smoothing: 0.1, z_loss: 0.0 },
        CrossEntropy { label_smoothing: 0.2, z_loss: 1e-2 },
    ];
    settings.map(|settings| cross_entropy_case(leaves, &[2, 3], 5, settings)).into()
}

/// Three chunks, the last of which is not full; fewer rows than a chunk has; a head that is frozen.
fn linear_cross_entropy(leaves: Leaves) -> Vec<Case> {
    let plain = CrossEntropy::default();
    let all = CrossEntropy { label_smoothing: 0.2, z_loss: 1e-2 };
    let cases = [(&[2, 67][..], plain, None), (&[5], all, None), (&[131], all, Some(0.8))];
    let mut cases: Vec<_> = cases
        .into_iter()
        .map(|(rows, loss, soft_cap)| {
            let settings = LinearCrossEntropy { loss, soft_cap, rows: 64 };
            let mut case = Builder::new(format!("{settings:?} {rows:?}"), leaves);
            let weight = case.variable("weight", &[7, 8]);
            linear_cross_entropy_case(case, rows, weight, settings)
        })
        .collect();
    let mut case = Builder::new("a frozen head in chunks", leaves);
    let weight = case.constant("weight", &[7, 8]);
    let settings = LinearCrossEntropy { loss: all, soft_cap: None, rows: 64 };
    cases.push(linear_cross_entropy_case(case, &[70], weight, settings));
    cases
}

fn linear_cross_entropy_case(
    mut case: Builder,
    rows: &[usize],
    weight: Value,
    settings: LinearCrossEntropy,
) -> Case {
    let x = case.variable("x", &[rows, &[8]].concat());
    let targets = case.tokens("targets", rows, 7);
    let ids = case.data.values.get_mut("targets").expect("targets");
    ids.iter_mut().skip(3).step_by(4).for_each(|id| *id = f64::from(IGNORE));
    let loss = case.graph.linear_cross_entropy(x, weight, targets, settings);
    case.finish(loss)
}

/// Two layers whose activations are computed again, the second from what the first leaves, and read
/// once more outside.
fn recomputed(leaves: Leaves) -> Vec<Case> {
    let mut case = Builder::new("activations computed again", leaves);
    let [x, a, b] =
        [("x", 3), ("a", 8), ("b", 8)].map(|(name, rows)| case.variable(name, &[rows, 8]));
    let layer = |graph: &mut Graph, x, weight| {
        graph.recompute(|graph| {
            let y = graph.linear(x, weight, None, Activation::Tanh);
            graph.add(y, x)
        })
    };
    let y = layer(&mut case.graph, x, a);
    let z = layer(&mut case.graph, y, b);
    let product = case.graph.multiply(y, z);
    vec![case.finish(product)]
}

fn mean_squared_error(leaves: Leaves) -> Vec<Case> {
    let mut case = Builder::new("mean squared error", leaves);
    let prediction = case.variable("prediction", &[3, 5]);
    let expected = case.variable("expected", &[3, 5]);
    let loss = case.graph.mean_squared_error(prediction, expected);
    vec![case.finish(loss)]
}

/// Numbers per row and per batch, which are f32 with padding, times parameters: what lies in the
/// padding would end up in the parameters' gradients.
fn weighted_statistics(leaves: Leaves) -> Vec<Case> {
    let mut case = Builder::new("weighted statistics", leaves);
    let x = case.variable("x", &[9, 6]);
    let mut y = x;
    for kind in [Activation::Tanh, Activation::Silu, Activation::GeluTanh] {
        y = case.graph.activation(y, kind);
    }
    let rows = case.graph.log_sum_exp(y);
    let weights = case.variable("row_weights", &[9]);
    let rows = case.graph.multiply(rows, weights);
    let expected = case.constant("expected", &[9]);
    let rows_loss = case.graph.mean_squared_error(rows, expected);
    let rows_loss = case.graph.scale(rows_loss, 0.1);
    let targets = case.tokens("targets", &[9], 6);
    let classes_loss = case.graph.cross_entropy(y, targets, CrossEntropy::default());
    let weighted = [("a", rows_loss), ("b", classes_loss)].map(|(name, loss)| {
        let weight = case.variable(name, &[1]);
        case.graph.multiply(loss, weight)
    });
    let sum = case.graph.add(weighted[0], weighted[1]);
    vec![case.finish(sum)]
}
