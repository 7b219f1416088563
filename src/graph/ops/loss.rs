//! Losses: each one f32 number, the mean over what counts.
//!
//! Where the number of targets differs between the microbatches of a step, each microbatch divides by
//! its even share of all of them: [`CountTargets`] counts them before the first one runs.

use super::{assert_same_shape, first};
use crate::graph::{Dense, Element, Graph, Node, Op, Shape, Value};
use crate::kernel::Precision;
use crate::kernels;
use crate::kernels::IGNORE;
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::loss as reference;
use crate::step::StepInput;

/// How many targets (..) are not [`IGNORE`], and 1: added up over the microbatches of a step, (2)
/// u32, its targets and its microbatches. It [spans the step](Op::spans_step): whatever reads it
/// sees the counts of the whole step, in every microbatch. In [`Op::evaluate`] one microbatch is all.
#[derive(Clone, Copy, Debug)]
pub struct CountTargets;

impl Op for CountTargets {
    fn name(&self) -> &'static str {
        "count_targets"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let targets = &inputs[0];
        assert_eq!(targets.element, Element::U32, "count_targets: targets are {targets}");
        vec![Shape::u32([2])]
    }

    fn gradient(&self, _: &mut Graph, node: &Node, _: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![None; node.inputs.len()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&kernels::CountTargets {
            params: kernels::CountTargetsParams {
                rows: to_u32(inputs[0].shape.count()),
                ignore_index: IGNORE,
                accumulate: u32::from(outputs[0].accumulate),
            },
            targets: inputs[0].binding(),
            counts: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let count = reference::count_targets(&targets(inputs[0].data), IGNORE);
        vec![vec![count.into(), 1.0]]
    }

    fn spans_step(&self) -> bool {
        true
    }
}

/// Cross-entropy from logits (.., classes) and targets (..), averaged over the targets that are
/// not [`IGNORE`], those of all microbatches of the step; 0 where all are ignored.
///
/// ```text
/// lse = log Σ exp(logit)    nll = lse - logit[target]
/// loss = (1-e) nll + e mean_c(lse - logit_c) + z lse²
/// ```
/// Its inputs are the logits, the targets and their [`CountTargets`]. With N targets in a step of M
/// microbatches the loss of each is the sum over its rows times M / N, so that the mean over
/// microbatches is the sum over all rows / N. Its outputs are the loss, the loss of every row, the
/// rows' statistics, and (2) the loss again with M / N.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// e: share of the target spread evenly over all classes (Szegedy et al. 2016).
    pub label_smoothing: f32,
    /// z: weight of the squared log-sum-exp, which keeps logits from drifting (PaLM: 1e-4).
    pub z_loss: f32,
}

impl CrossEntropy {
    pub(super) fn reference(&self, classes: usize) -> reference::CrossEntropyOptions {
        reference::CrossEntropyOptions {
            classes,
            ignore_index: IGNORE,
            label_smoothing: f64::from(self.label_smoothing),
            z_loss: f64::from(self.z_loss),
        }
    }

    /// Records losses and statistics of rows.
    pub(super) fn record_rows(
        &self,
        recorder: &mut Recorder<'_>,
        [logits, targets, loss, statistics]: [&Slot; 4],
    ) {
        recorder.dispatch(&kernels::CrossEntropy {
            params: kernels::CrossEntropyParams {
                rows: to_u32(logits.shape.rows()),
                row_quads: to_u32(logits.shape.row_quads()),
                classes: to_u32(logits.shape.cols()),
                ignore_index: IGNORE,
                label_smoothing: self.label_smoothing,
                z_loss: self.z_loss,
            },
            logits: logits.binding(),
            targets: targets.binding(),
            loss: loss.binding(),
            statistics: statistics.binding(),
        });
    }

    /// Records the gradient of rows of logits.
    pub(super) fn record_backward(
        &self,
        recorder: &mut Recorder<'_>,
        [logits, targets, statistics, mean, upstream, dlogits]: [&Slot; 6],
    ) {
        recorder.dispatch(&kernels::CrossEntropyBackward {
            params: kernels::CrossEntropyBackwardParams {
                rows: to_u32(logits.shape.rows()),
                row_quads: to_u32(logits.shape.row_quads()),
                classes: to_u32(logits.shape.cols()),
                ignore_index: IGNORE,
                label_smoothing: self.label_smoothing,
                z_loss: self.z_loss,
            },
            logits: logits.binding(),
            targets: targets.binding(),
            statistics: statistics.binding(),
            mean: mean.binding(),
            upstream: upstream.binding(),
            dlogits: dlogits.binding(),
        });
    }
}

/// Records the loss with M / N of the losses of all rows, and the loss alone.
pub(super) fn record_mean(recorder: &mut Recorder<'_>, [rows, counts, mean, loss]: [&Slot; 4]) {
    recorder.dispatch(&kernels::CrossEntropyMean {
        params: kernels::CrossEntropyMeanParams { rows: to_u32(rows.shape.count()) },
        loss: rows.binding(),
        counts: counts.binding(),
        mean: mean.binding(),
    });
    // The loss alone: whatever reads it takes the rest of its quad to be zero.
    recorder.dispatch(&kernels::RowMean {
        params: kernels::RowMeanParams { rows: 1 },
        values: mean.binding(),
        mean: loss.binding(),
    });
}

pub(super) fn targets(data: &[f64]) -> Vec<u32> {
    data.iter().map(|&target| target as u32).collect()
}

/// Targets and microbatches of the step, as [`CountTargets`] evaluates to.
pub(super) fn counts(data: &[f64]) -> [u32; 2] {
    [0, 1].map(|i| data[i] as u32)
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let [logits, targets, counts] = inputs else {
            panic!("cross_entropy reads logits, targets and their counts; see Graph::cross_entropy")
        };
        assert!(
            targets.element == Element::U32
                && logits.dims[..logits.dims.len() - 1] == targets.dims[..],
            "cross_entropy: logits are {logits}, targets are {targets}"
        );
        assert_eq!(counts, &Shape::u32([2]), "cross_entropy: counts of the targets");
        let rows = logits.rows();
        vec![Shape::f32([1]), Shape::f32([rows]), Shape::f32([2 * rows]), Shape::f32([2])]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let [logits, targets] = [node.inputs[0], node.inputs[1]];
        let inputs = [logits, targets, node.output(2), node.output(3), first(upstream)];
        vec![Some(graph.apply(CrossEntropyBackward(*self), &inputs)), None, None]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        self.record_rows(recorder, [&inputs[0], &inputs[1], &outputs[1], &outputs[2]]);
        record_mean(recorder, [&outputs[1], &inputs[2], &outputs[3], &outputs[0]]);
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let settings = self.reference(inputs[0].shape.cols());
        let targets = targets(inputs[1].data);
        let (loss, lse) = reference::cross_entropy(inputs[0].data, &targets, &settings);
        let mean = reference::cross_entropy_mean(&loss, counts(inputs[2].data));
        let rows = inputs[0].data.chunks(settings.classes).zip(&lse).zip(&targets);
        let statistics = rows.flat_map(|((row, lse), &target)| {
            let largest = row.iter().copied().fold(f64::MIN, f64::max);
            if target == IGNORE { [0.0, 0.0] } else { [largest, lse - largest] }
        });
        vec![vec![mean[0]], loss, statistics.collect(), mean.to_vec()]
    }
}

/// dlogits of [`CrossEntropy`]; inputs logits, targets, statistics, the loss with M / N, and the
/// loss's gradient.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyBackward(pub CrossEntropy);

impl Op for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let [logits, targets, statistics, mean, upstream] = [0, 1, 2, 3, 4].map(|i| &inputs[i]);
        let slots = [logits, targets, statistics, mean, upstream, &outputs[0]];
        self.0.record_backward(recorder, slots);
    }

    fn is_f32(&self, input: usize) -> bool {
        input > 1
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let settings = self.0.reference(inputs[0].shape.cols());
        let (logits, targets) = (inputs[0].data, targets(inputs[1].data));
        let upstream = inputs[4].data[0] * inputs[3].data[1];
        vec![reference::cross_entropy_backward(logits, &targets, &settings, upstream)]
    }
}

/// The mean of (prediction - expected)² over all elements; outputs the loss and the loss of every
/// row.
#[derive(Clone, Copy, Debug)]
pub struct MeanSquaredError;

impl Op for MeanSquaredError {
    fn name(&self) -> &'static str {
        "mean_squared_error"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        assert_same_shape("mean_squared_error", &inputs[0], &inputs[1]);
        vec![Shape::f32([1]), Shape::f32([inputs[0].rows()])]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let inputs = [node.inputs[0], node.inputs[1], first(upstream)];
        let gradient = graph.apply(MeanSquaredErrorBackward, &inputs);
        let of_expected = graph.scale(gradient, -1.0);
        vec![Some(gradient), Some(of_expected)]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        let rows = to_u32(shape.rows());
        recorder.dispatch(&kernels::MeanSquaredError {
            params: kernels::MeanSquaredErrorParams { rows, cols: to_u32(shape.cols()) },
            prediction: inputs[0].binding(),
            expected: inputs[1].binding(),
            loss: outputs[1].binding(),
        });
        recorder.dispatch(&kernels::RowMean {
            params: kernels::RowMeanParams { rows },
            values: outputs[1].binding(),
            mean: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [prediction, expected] = [0, 1].map(|i| inputs[i].data);
        let rows = reference::mean_squared_error(prediction, expected, inputs[0].shape.cols());
        vec![vec![crate::reference::reduce::row_mean(&rows)], rows]
    }
}

/// The gradient of [`MeanSquaredError`]; inputs prediction, expected, and the loss's gradient.
#[derive(Clone, Copy, Debug)]
pub struct MeanSquaredErrorBackward;

impl Op for MeanSquaredErrorBackward {
    fn name(&self) -> &'static str {
        "mean_squared_error_backward"
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[0].shape;
        recorder.dispatch(&kernels::MeanSquaredErrorBackward {
            params: kernels::MeanSquaredErrorBackwardParams {
                rows: to_u32(shape.rows()),
                cols: to_u32(shape.cols()),
            },
            prediction: inputs[0].binding(),
            expected: inputs[1].binding(),
            upstream: inputs[2].binding(),
            dprediction: outputs[0].binding(),
        });
    }

    fn is_f32(&self, input: usize) -> bool {
        input == 2
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [prediction, expected, upstream] = [0, 1, 2].map(|i| inputs[i].data);
        vec![reference::mean_squared_error_backward(prediction, expected, upstream[0])]
    }
}

impl Graph {
    /// How many targets (..) of the whole step are not [`IGNORE`], and how many microbatches it has:
    /// (2) u32. It costs a dispatch per microbatch, and once more whatever the targets are computed
    /// from, where they are no input.
    #[track_caller]
    pub fn count_targets(&mut self, targets: Value) -> Value {
        self.with_precision(Precision::F32, |graph| graph.apply(CountTargets, &[targets]))
    }

    /// Cross-entropy of logits (.., classes) with targets (..), the mean over the targets of the
    /// step: one f32 number.
    #[track_caller]
    pub fn cross_entropy(
        &mut self,
        logits: Value,
        targets: Value,
        settings: CrossEntropy,
    ) -> Value {
        self.allow_ignored(targets);
        let counts = self.count_targets(targets);
        self.apply(settings, &[logits, targets, counts])
    }

    /// The mean of (prediction - expected)² over all elements: one f32 number.
    #[track_caller]
    pub fn mean_squared_error(&mut self, prediction: Value, expected: Value) -> Value {
        self.with_precision(Precision::F32, |graph| {
            graph.apply(MeanSquaredError, &[prediction, expected])
        })
    }
}
