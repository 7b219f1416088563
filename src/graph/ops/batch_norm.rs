//! BatchNorm over features, with running statistics that the verdict commits.

use super::first;
use super::row_norm::{assert_width, rows_cols};
use crate::graph::{Dense, Graph, Node, Op, Shape, Value};
use crate::kernels;
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::normalization as reference;
use crate::step::StepInput;

/// BatchNorm in training; inputs x (rows, features), weight, bias. Outputs y and the batch's
/// statistics (4, features): shift, rest, biased variance and scale, the mean being
/// (shift + rest) / scale and the variance that of x scale.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    /// Added to the variance.
    pub eps: f32,
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let x = &inputs[0];
        assert!(x.rows() > 1, "batch_norm needs at least two rows in training, x is {x}");
        assert_width("batch_norm", x, &inputs[1]);
        assert_width("batch_norm", x, &inputs[2]);
        vec![x.clone(), Shape::f32([4, x.cols()])]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let inputs = [node.inputs[0], first(upstream), node.output(1), node.inputs[1]];
        let dx = graph.apply(BatchNormBackward { eps: self.eps }, &inputs);
        let [dweight, dbias] = [1, 2].map(|output| graph.byproduct(dx, output));
        vec![Some(dx), Some(dweight), Some(dbias)]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let [rows, features] = rows_cols(&inputs[0].shape);
        recorder.dispatch(&kernels::BatchNormStatistics {
            params: kernels::BatchNormStatisticsParams { rows, features },
            x: inputs[0].binding(),
            statistics: outputs[1].binding(),
        });
        let [x, weight, bias] = [0, 1, 2].map(|i| &inputs[i]);
        let slots = [x, &outputs[1], weight, bias, &outputs[0]];
        record_normalize(recorder, slots, self.eps, 0);
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [x, weight, bias] = [0, 1, 2].map(|i| inputs[i].data);
        let features = inputs[0].shape.cols();
        let statistics = reference::batch_norm_statistics(x, features);
        let eps = f64::from(self.eps);
        let y = reference::batch_norm(x, &statistics, weight, bias, eps);
        vec![y, reference::batch_norm_moments(x, &statistics)]
    }
}

/// y = (x - mean) / sqrt(variance + eps) * weight + bias.
fn record_normalize(
    recorder: &mut Recorder<'_>,
    [x, statistics, weight, bias, y]: [&Slot; 5],
    eps: f32,
    given: u32,
) {
    let [rows, features] = rows_cols(&x.shape);
    recorder.dispatch(&kernels::BatchNorm {
        params: kernels::BatchNormParams { rows, features, eps, given },
        x: x.binding(),
        statistics: statistics.binding(),
        weight: weight.binding(),
        bias: bias.binding(),
        y: y.binding(),
    });
}

/// BatchNorm in evaluation; inputs x, statistics (2, features), weight, bias.
#[derive(Clone, Copy, Debug)]
pub struct NormalizeFeatures {
    /// Added to the variance.
    pub eps: f32,
}

impl Op for NormalizeFeatures {
    fn name(&self) -> &'static str {
        "normalize_features"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let x = &inputs[0];
        assert_eq!(inputs[1].dims, [2, x.cols()], "normalize_features: statistics for {x}");
        assert_width("normalize_features", x, &inputs[2]);
        assert_width("normalize_features", x, &inputs[3]);
        vec![x.clone()]
    }

    fn gradient(&self, _: &mut Graph, node: &Node, _: &[Option<Value>]) -> Vec<Option<Value>> {
        panic!("{} is for evaluation; training uses batch_norm", node.label)
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let slots = [&inputs[0], &inputs[1], &inputs[2], &inputs[3], &outputs[0]];
        record_normalize(recorder, slots, self.eps, 1);
    }

    fn is_f32(&self, input: usize) -> bool {
        input == 1
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [x, statistics, weight, bias] = [0, 1, 2, 3].map(|i| inputs[i].data);
        vec![reference::batch_norm(x, statistics, weight, bias, f64::from(self.eps))]
    }
}

/// Gradients of [`BatchNorm`]; inputs x, dy, statistics, weight. Outputs dx, dweight, dbias.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormBackward {
    /// As in the forward pass.
    pub eps: f32,
}

impl Op for BatchNormBackward {
    fn name(&self) -> &'static str {
        "batch_norm_backward"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let features = Shape::f32([inputs[0].cols()]);
        vec![inputs[0].clone(), features.clone(), features]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let [rows, features] = rows_cols(&inputs[0].shape);
        let accumulate = outputs[1].accumulate;
        assert_eq!(accumulate, outputs[2].accumulate, "weight and bias are used together");
        let [x, dy, statistics, weight] = [0, 1, 2, 3].map(|i| inputs[i].binding());
        let [dx, dweight, dbias] = [0, 1, 2].map(|i| outputs[i].binding());
        recorder.dispatch(&kernels::BatchNormBackward {
            params: kernels::BatchNormBackwardParams {
                rows,
                features,
                eps: self.eps,
                accumulate: u32::from(accumulate),
            },
            x,
            dy,
            statistics,
            weight,
            x_gradient: dx,
            dweight,
            dbias,
        });
    }

    fn is_f32(&self, input: usize) -> bool {
        input == 2
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [x, dy, weight] = [0, 1, 3].map(|i| inputs[i].data);
        let gradients = reference::batch_norm_backward(x, weight, dy, f64::from(self.eps));
        vec![gradients.dx, gradients.dweight, gradients.dbias]
    }

    fn accumulates(&self, output: usize) -> bool {
        output > 0
    }
}

/// staged = (1 - momentum) running + momentum batch, with the unbiased variance; inputs the
/// batch's statistics and the committed running ones.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormRunning {
    /// Weight of the batch.
    pub momentum: f32,
    /// Rows of the batch, for the unbiased variance.
    pub rows: usize,
}

impl Op for BatchNormRunning {
    fn name(&self) -> &'static str {
        "batch_norm_running"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let running = &inputs[1];
        assert_eq!(inputs[0].dims, [4, running.cols()], "batch_norm_running: {running}");
        vec![inputs[1].clone()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&kernels::BatchNormRunning {
            params: kernels::BatchNormRunningParams {
                features: to_u32(inputs[0].shape.cols()),
                rows: to_u32(self.rows),
                momentum: self.momentum,
                from_staged: u32::from(outputs[0].accumulate),
            },
            batch: inputs[0].binding(),
            base: inputs[1].binding(),
            staged: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [batch, base] = [0, 1].map(|i| inputs[i].data);
        let momentum = f64::from(self.momentum);
        let batch = reference::batch_norm_mean_variance(batch);
        vec![reference::batch_norm_running(base, &batch, self.rows, momentum)]
    }

    fn accumulates(&self, _: usize) -> bool {
        true
    }
}

impl Graph {
    /// BatchNorm of x (rows, features) with the batch's own statistics, and these: (4, features),
    /// for [`update_running`](Self::update_running).
    #[track_caller]
    pub fn batch_norm(&mut self, x: Value, weight: Value, bias: Value, eps: f32) -> (Value, Value) {
        let y = self.apply(BatchNorm { eps }, &[x, weight, bias]);
        (y, self.byproduct(y, 1))
    }

    /// BatchNorm of x (rows, features) with given statistics (2, features), for evaluation.
    #[track_caller]
    pub fn normalize_features(
        &mut self,
        x: Value,
        statistics: Value,
        weight: Value,
        bias: Value,
        eps: f32,
    ) -> Value {
        self.apply(NormalizeFeatures { eps }, &[x, statistics, weight, bias])
    }

    /// Stages new running statistics from those of the batch x.
    #[track_caller]
    pub fn update_running(&mut self, running: Value, statistics: Value, x: Value, momentum: f32) {
        let rows = self.shape(x).rows();
        let new = self.apply(BatchNormRunning { momentum, rows }, &[statistics, running]);
        self.stage(running, new);
    }
}
