//! An operation of your own: its kernels in WGSL, its gradient, and how to know that both are right.
//!
//! ```text
//! cargo run --release --example custom_op --features contract
//! ```
//!
//! The operation is the squared ReLU, y = max(x, 0)² (So et al. 2021, "Primer"). Three things make
//! it one: two `kernel!` declarations beside their WGSL files, one `impl Op`, and one call of
//! `Graph::apply`. Four checks follow, each of which can be copied for an operation of yours:
//!
//! 1. the declarations say what the WGSL says (feature `contract`, no GPU needed);
//! 2. the gradient agrees with finite differences, in f64 on the CPU, in the middle of a graph;
//! 3. the device computes the same gradients as the CPU;
//! 4. a model that uses it learns.

use std::error::Error;
use std::process::ExitCode;

use evenkeel::graph::{Dense, Graph, HostData, Node, Op, Phase, Shape, Value};
use evenkeel::kernel::grid;
use evenkeel::kernel::shared::{GRID, QUAD_F32};
use evenkeel::nn::Linear;
use evenkeel::record::{Recorder, Slot, quads};
use evenkeel::run::{finish, say};
use evenkeel::step::StepInput;
use evenkeel::train::{AdamW, Batch, Clip, ModelOutput, Trainer};
use evenkeel::{Gpu, kernel, wgsl};

kernel! {
    /// y = max(x, 0)².
    pub SquaredRelu = [QUAD_F32, GRID, wgsl!("squared_relu.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform SquaredReluParams {
        /// Quads in each buffer.
        quads: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads), overwritten.
        Write y,
    }
}

kernel! {
    /// dx = 2 max(x, 0) dy.
    pub SquaredReluBackward = [QUAD_F32, GRID, wgsl!("squared_relu_backward.wgsl")];
    workgroup [64, 1, 1];
    grid |params| grid(params.quads.div_ceil(64));
    uniform SquaredReluBackwardParams {
        /// Quads in each buffer.
        quads: u32,
    }
    buffers {
        /// (quads)
        Read x,
        /// (quads)
        Read dy,
        /// (quads), overwritten.
        Write x_gradient,
    }
}

/// The operation; its kernel has the same name.
#[derive(Debug)]
struct SquaredReluOp;

impl Op for SquaredReluOp {
    fn name(&self) -> &'static str {
        "squared_relu"
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let dy = upstream[0].expect("there is one output");
        vec![Some(graph.apply(SquaredReluBackwardOp, &[node.inputs[0], dy]))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&SquaredRelu {
            params: SquaredReluParams { quads: quads(&inputs[0].shape) },
            x: inputs[0].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![inputs[0].data.iter().map(|x| x.max(0.0).powi(2)).collect()]
    }
}

/// Its gradient; inputs x, dy.
#[derive(Debug)]
struct SquaredReluBackwardOp;

impl Op for SquaredReluBackwardOp {
    fn name(&self) -> &'static str {
        "squared_relu_backward"
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&SquaredReluBackward {
            params: SquaredReluBackwardParams { quads: quads(&inputs[0].shape) },
            x: inputs[0].binding(),
            dy: inputs[1].binding(),
            x_gradient: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (x, dy) = (inputs[0].data, inputs[1].data);
        vec![x.iter().zip(dy).map(|(x, dy)| 2.0 * x.max(0.0) * dy).collect()]
    }
}

const ROWS: usize = 64;
const HIDDEN: usize = 30;

/// A small network over points of the plane, fitted to a function of them.
fn model(graph: &mut Graph) -> ModelOutput {
    let points = graph.input("points", Shape::real([ROWS, 2]));
    let heights = graph.input("heights", Shape::real([ROWS, 1]));
    let hidden = Linear::new(2, HIDDEN).forward(graph, "hidden", points);
    let hidden = graph.apply(SquaredReluOp, &[hidden]);
    let prediction = Linear::new(HIDDEN, 1).forward(graph, "head", hidden);
    ModelOutput { loss: graph.mean_squared_error(prediction, heights), prediction }
}

fn data() -> (Vec<f32>, Vec<f32>) {
    let point = |i: usize| [(i % 8) as f32 / 3.5 - 1.0, (i / 8) as f32 / 3.5 - 1.0];
    let points: Vec<_> = (0..ROWS).map(point).collect();
    let heights = points.iter().map(|[x, y]| x * y + 0.5 * x * x).collect();
    (points.concat(), heights)
}

fn main() -> ExitCode {
    finish(pollster::block_on(run()))
}

async fn run() -> Result<(), Box<dyn Error>> {
    check_contract()?;
    let gpu = Gpu::new().await?;
    say!("adapter    {} ({:?})", gpu.info.name, gpu.info.backend);
    let optimizer = AdamW { learning_rate: 0.02, ..AdamW::default() };
    let builder = Trainer::builder(model as fn(&mut Graph) -> ModelOutput);
    let mut trainer = builder.optimizer(optimizer).clip(Clip::Norm(1.0)).build(&gpu).await?;

    let (points, heights) = data();
    let mut host = HostData::default();
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    host.values.insert("points".into(), wide(&points));
    host.values.insert("heights".into(), wide(&heights));
    for spec in trainer.parameters().specs() {
        let values = trainer.parameters().read(&spec.name).await?;
        host.values.insert(spec.name.clone(), wide(&values));
    }
    let (names, gradients) = check_differences(&host)?;

    let batch = Batch::new().with("points", points).with("heights", heights);
    trainer.step(&batch).await?;
    for (name, expected) in names.iter().zip(&gradients) {
        let found = trainer.gradient(name).await?;
        compare(&format!("gradient of {name}"), &wide(&found), expected, 1e-5)?;
    }
    say!("device     its gradients agree with the CPU's");

    for _ in 1..300 {
        trainer.step(&batch).await?;
    }
    let telemetry = trainer.telemetry().await?;
    let (first, last) = (telemetry[0].loss, telemetry[telemetry.len() - 1].loss);
    say!("training   loss {first:.4} -> {last:.6}");
    if last > first / 20.0 {
        return Err(format!("the model did not learn: loss {first} -> {last}").into());
    }
    Ok(())
}

#[cfg(feature = "contract")]
fn check_contract() -> Result<(), String> {
    use evenkeel::kernel::Kernel;
    evenkeel::kernel::contract::check(&SquaredRelu::DECLARATION)?;
    evenkeel::kernel::contract::check(&SquaredReluBackward::DECLARATION)?;
    say!("contract   declarations and WGSL agree");
    Ok(())
}

#[cfg(not(feature = "contract"))]
fn check_contract() -> Result<(), String> {
    say!("contract   not checked: build with --features contract");
    Ok(())
}

/// Analytic gradients of all parameters against central differences, in f64. In the model the
/// operation stands in the middle: a gradient that forgets its upstream would show.
fn check_differences(host: &HostData) -> Result<(Vec<String>, Vec<Vec<f64>>), String> {
    let mut graph = Graph::new(Phase::Train);
    let loss = model(&mut graph).loss;
    let forward = |host: &HostData| graph.evaluate(host).get(loss)[0];
    let mut differences = Vec::new();
    for spec in graph.parameters() {
        let count = spec.shape.count();
        let difference = |index| {
            let shifted = |by: f64| {
                let mut host = host.clone();
                host.values.get_mut(&spec.name).expect("every parameter is there")[index] += by;
                forward(&host)
            };
            (shifted(1e-6) - shifted(-1e-6)) / 2e-6
        };
        differences.push((0..count).map(difference).collect::<Vec<_>>());
    }

    let mut graph = Graph::new(Phase::Train);
    let loss = model(&mut graph).loss;
    graph.backward(loss, 1.0);
    let gradients = graph.evaluated_gradients(&graph.evaluate(host));
    let names: Vec<_> = graph.parameters().iter().map(|spec| spec.name.clone()).collect();
    for ((name, gradient), difference) in names.iter().zip(&gradients).zip(&differences) {
        compare(&format!("gradient of {name}"), gradient, difference, 1e-7)?;
    }
    say!("gradient   agrees with finite differences");
    Ok((names, gradients))
}

fn compare(what: &str, found: &[f64], expected: &[f64], tolerance: f64) -> Result<(), String> {
    let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= tolerance * largest.max(1.0);
        if !close {
            return Err(format!("{what}[{i}] is {found}, not {expected}"));
        }
    }
    Ok(())
}
