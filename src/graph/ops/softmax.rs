//! Softmax and log-sum-exp over rows.

use super::{assert_same_shape, first};
use crate::graph::{Dense, Graph, Node, Op, Shape, Value};
use crate::kernels;
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::softmax as reference;
use crate::step::StepInput;

/// softmax over the last dimension; inputs x and, optionally, how many columns of each row count.
/// A row in which none counts gives zeros.
#[derive(Clone, Copy, Debug)]
pub struct Softmax;

/// Valid columns of each row, where the second input gives them.
fn lengths(inputs: &[Dense<'_>]) -> Vec<usize> {
    match inputs.get(1) {
        Some(lengths) => lengths.data.iter().map(|&length| length as usize).collect(),
        None => vec![inputs[0].shape.cols(); inputs[0].shape.rows()],
    }
}

#[track_caller]
fn assert_lengths(what: &str, inputs: &[Shape]) {
    if let Some(lengths) = inputs.get(1) {
        let rows = inputs[0].rows();
        assert_eq!(lengths.count(), rows, "{what}: lengths are {lengths}, x is {}", inputs[0]);
    }
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        assert_lengths("softmax", inputs);
        vec![inputs[0].clone()]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let dx = graph.apply(SoftmaxBackward, &[node.output(0), first(upstream)]);
        let mut gradients = vec![Some(dx)];
        gradients.resize(node.inputs.len(), None);
        gradients
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        let cols = to_u32(shape.cols());
        recorder.dispatch(&kernels::Softmax {
            params: kernels::SoftmaxParams {
                rows: to_u32(shape.rows()),
                cols,
                valid_cols: cols,
                use_lengths: u32::from(inputs.len() > 1),
            },
            x: inputs[0].binding(),
            lengths: inputs.get(1).unwrap_or(&inputs[0]).binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let cols = inputs[0].shape.cols();
        vec![reference::softmax(inputs[0].data, cols, &lengths(inputs))]
    }
}

/// The gradient of [`Softmax`]; inputs y, dy.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxBackward;

impl Op for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax_backward"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        assert_same_shape("softmax_backward", &inputs[0], &inputs[1]);
        vec![inputs[0].clone()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        recorder.dispatch(&kernels::SoftmaxBackward {
            params: kernels::SoftmaxBackwardParams {
                rows: to_u32(shape.rows()),
                cols: to_u32(shape.cols()),
            },
            y: inputs[0].binding(),
            dy: inputs[1].binding(),
            x_gradient: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let cols = inputs[0].shape.cols();
        vec![reference::softmax_backward(inputs[0].data, inputs[1].data, cols)]
    }
}

/// log Σ exp over the last dimension, in f32, one number per row; and of each row the largest
/// element and the result less it, (2 * rows).
#[derive(Clone, Copy, Debug)]
pub struct LogSumExp;

impl Op for LogSumExp {
    fn name(&self) -> &'static str {
        "log_sum_exp"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![Shape::f32([inputs[0].rows()]), Shape::f32([2 * inputs[0].rows()])]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let inputs = [node.inputs[0], node.output(1), first(upstream)];
        vec![Some(graph.apply(LogSumExpBackward, &inputs))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        let cols = to_u32(shape.cols());
        recorder.dispatch(&kernels::LogSumExp {
            params: kernels::LogSumExpParams {
                rows: to_u32(shape.rows()),
                cols,
                valid_cols: cols,
                use_lengths: 0,
            },
            x: inputs[0].binding(),
            lengths: inputs[0].binding(),
            y: outputs[0].binding(),
            statistics: outputs[1].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (x, cols) = (inputs[0].data, inputs[0].shape.cols());
        let y = reference::log_sum_exp(x, cols, &lengths(inputs));
        vec![y, reference::log_sum_exp_statistics(x, cols, &lengths(inputs))]
    }
}

/// The gradient of [`LogSumExp`]; inputs x, the statistics, dy.
#[derive(Clone, Copy, Debug)]
pub struct LogSumExpBackward;

impl Op for LogSumExpBackward {
    fn name(&self) -> &'static str {
        "log_sum_exp_backward"
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        let cols = to_u32(shape.cols());
        recorder.dispatch(&kernels::LogSumExpBackward {
            params: kernels::LogSumExpBackwardParams {
                rows: to_u32(shape.rows()),
                cols,
                valid_cols: cols,
                use_lengths: 0,
            },
            x: inputs[0].binding(),
            lengths: inputs[0].binding(),
            statistics: inputs[1].binding(),
            upstream: inputs[2].binding(),
            x_gradient: outputs[0].binding(),
        });
    }

    fn is_f32(&self, input: usize) -> bool {
        input > 0
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (cols, lengths) = (inputs[0].shape.cols(), lengths(&inputs[..1]));
        vec![reference::log_sum_exp_backward(inputs[0].data, inputs[2].data, cols, &lengths)]
    }
}

impl Graph {
    /// softmax of x over its last dimension.
    #[track_caller]
    pub fn softmax(&mut self, x: Value) -> Value {
        self.apply(Softmax, &[x])
    }

    /// softmax of x over the first `lengths[row]` columns of each row, zero in the others; rows of
    /// length 0 are zeros.
    #[track_caller]
    pub fn masked_softmax(&mut self, x: Value, lengths: Value) -> Value {
        self.apply(Softmax, &[x, lengths])
    }

    /// log Σ exp of each row of x (rows, cols), in f32: (rows).
    #[track_caller]
    pub fn log_sum_exp(&mut self, x: Value) -> Value {
        self.apply(LogSumExp, &[x])
    }
}
