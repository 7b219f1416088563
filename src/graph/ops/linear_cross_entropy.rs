//! The head of a language model and its loss as one: logits exist for some rows at a time.

use std::ops::Range;
use std::slice;

use super::elementwise::SoftCapBackward;
use super::loss::{record_mean, targets};
use super::{CrossEntropy, Linear, Product, SoftCap, Transposed, first};
use crate::graph::{Dense, Element, Graph, Node, Op, Shape, Value};
use crate::kernels::Activation;
use crate::record::{Extent, Machine, Recorder, Slot};
use crate::reference::{elementwise, loss as reference, matmul};
use crate::step::StepInput;

/// [`CrossEntropy`] of the logits soft_cap(x Wᵀ), whose memory does not grow with the rows of x.
///
/// The logits of [`rows`](Self::rows) rows are computed, reduced to their losses and overwritten by
/// the next. The backward pass computes them again, as their gradients, which it multiplies by W and
/// by x at once: a quarter more arithmetic in the head than with logits that are kept, and
/// the same results but for the order of the sums over chunks in the gradient of W.
///
/// Its inputs are x (.., in), targets (..), their [`CountTargets`](super::CountTargets), and W
/// (classes, in). The first four outputs are those of [`CrossEntropy`]; the others what is left of
/// the last chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearCrossEntropy {
    /// Label smoothing and z-loss.
    pub loss: CrossEntropy,
    /// The bound that logits approach, as in [`SoftCap`]; `None` for none.
    pub soft_cap: Option<f32>,
    /// How many rows have logits at a time: a multiple of 64, so that bindings may begin there.
    pub rows: usize,
}

impl LinearCrossEntropy {
    /// Settings whose logits of `rows` rows, or of 64, take at most so many bytes at a time, in
    /// chunks of about the same size. `None` where those of all rows do.
    pub fn within(
        most: u64,
        rows: usize,
        row_bytes: u64,
        loss: CrossEntropy,
        soft_cap: Option<f32>,
    ) -> Option<Self> {
        let fitting = usize::try_from(most / row_bytes).unwrap_or(usize::MAX);
        if rows <= fitting {
            return None;
        }
        let chunks = rows.div_ceil((fitting - fitting % 64).max(64));
        Some(Self { loss, soft_cap, rows: rows.div_ceil(chunks).next_multiple_of(64) })
    }

    fn chunks(self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        (0..rows).step_by(self.rows).map(move |first| first..rows.min(first + self.rows))
    }

    /// Logits of one chunk, and what more there is of that size.
    fn chunk_shapes(self, x: &Shape, weight: &Shape, count: usize) -> Vec<Shape> {
        vec![Shape::real([self.rows.min(x.rows()), weight.dims[0]]); count]
    }

    /// Records the logits of some rows: into the first buffer, and into the second what the cap
    /// makes of them.
    fn record_logits<'s>(
        self,
        recorder: &mut Recorder<'_>,
        [x, weight]: [&Slot; 2],
        [raw, capped]: [&'s Slot; 2],
    ) -> &'s Slot {
        let linear = Linear { activation: Activation::None };
        linear.record(recorder, &[x.clone(), weight.clone()], std::slice::from_ref(raw));
        let Some(cap) = self.soft_cap else { return raw };
        let operands = [raw, capped].map(Slot::clone);
        SoftCap { cap }.record(recorder, &operands[..1], &operands[1..]);
        capped
    }

    /// In f64: logits before and after the cap.
    fn evaluate_logits(self, x: Dense<'_>, weight: Dense<'_>) -> [Vec<f64>; 2] {
        let raw = matmul::matmul_transposed_b(x.data, weight.data, sizes(x, weight));
        let capped = match self.soft_cap {
            Some(cap) => elementwise::soft_cap(f64::from(cap), &raw),
            None => raw.clone(),
        };
        [raw, capped]
    }

    /// What the chunks of a matrix leave in a buffer for one.
    fn left_over(self, all: &[f64], cols: usize) -> Vec<f64> {
        let rows = all.len() / cols;
        let mut buffer = all[..self.rows.min(rows) * cols].to_vec();
        for Range { start, end } in self.chunks(rows) {
            buffer[..(end - start) * cols].copy_from_slice(&all[start * cols..end * cols]);
        }
        buffer
    }
}

fn sizes(x: Dense<'_>, weight: Dense<'_>) -> matmul::Product {
    let (rows, cols, inner) = (x.shape.rows(), weight.shape.dims[0], x.shape.cols());
    matmul::Product { rows, cols, inner }
}

impl Op for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let [x, targets, counts, weight] = inputs else {
            panic!("linear_cross_entropy has four inputs; see Graph::linear_cross_entropy")
        };
        assert!(
            self.rows > 0 && self.rows.is_multiple_of(64),
            "linear_cross_entropy: {} rows at a time are no multiple of 64",
            self.rows
        );
        let linear = Linear { activation: Activation::None };
        let logits = linear.shapes(&[x.clone(), weight.clone()]);
        let losses = self.loss.shapes(&[logits[0].clone(), targets.clone(), counts.clone()]);
        let chunks = 1 + usize::from(self.soft_cap.is_some());
        [losses, self.chunk_shapes(x, weight, chunks)].concat()
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let [x, targets, _, weight] = [0, 1, 2, 3].map(|i| node.inputs[i]);
        // A frozen head is no rarity, and its gradient would cost as much as that of x.
        let parameter = graph.parameter_behind(weight);
        let trains = parameter.is_none_or(|index| graph.parameters()[index].requires_grad);
        let op = LinearCrossEntropyBackward { forward: *self, trains_weight: trains };
        let inputs = [x, targets, node.output(2), node.output(3), first(upstream), weight];
        let dx = graph.apply(op, &inputs);
        let dw = trains.then(|| graph.byproduct(dx, 1));
        vec![Some(dx), None, None, dw]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let [x, targets, counts, weight] = [0, 1, 2, 3].map(|i| &inputs[i]);
        let [loss, losses, statistics, mean] = [0, 1, 2, 3].map(|i| &outputs[i]);
        for rows in self.chunks(x.shape.rows()) {
            let scratch = [4, outputs.len() - 1].map(|i| outputs[i].rows(0..rows.len()));
            let x = x.rows(rows.clone());
            let logits = self.record_logits(recorder, [&x, weight], scratch.each_ref());
            let targets = targets.elements(rows.clone());
            let pairs = statistics.elements(2 * rows.start..2 * rows.end);
            let losses = losses.elements(rows);
            self.loss.record_rows(recorder, [logits, &targets, &losses, &pairs]);
        }
        record_mean(recorder, [losses, counts, mean, loss]);
    }

    /// The weight may be.
    fn takes_parts(&self, inputs: &[Slot], outputs: &[Slot]) -> bool {
        !inputs[..3].iter().chain(outputs).any(Slot::is_in_parts)
    }

    /// The weight.
    fn takes_blocks(&self, input: usize) -> bool {
        input == 3
    }

    fn evaluate(&self, step: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let [x, targets, counts, weight] = [0, 1, 2, 3].map(|i| inputs[i]);
        let [raw, capped] = self.evaluate_logits(x, weight);
        let shape = Shape::real([x.shape.rows(), weight.shape.dims[0]]);
        let logits = Dense { shape: &shape, data: &capped };
        let mut outputs = self.loss.evaluate(step, &[logits, targets, counts]);
        outputs.push(self.left_over(&raw, shape.cols()));
        if self.soft_cap.is_some() {
            outputs.push(self.left_over(&capped, shape.cols()));
        }
        outputs
    }
}

/// dx and, where it is trained, dW of [`LinearCrossEntropy`]; inputs x, targets, statistics, the loss
/// with M / N, the loss's gradient, and W.
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropyBackward {
    /// The loss.
    pub forward: LinearCrossEntropy,
    /// Whether the second output is dW.
    pub trains_weight: bool,
}

impl Op for LinearCrossEntropyBackward {
    fn name(&self) -> &'static str {
        "linear_cross_entropy_backward"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (x, weight) = (&inputs[0], &inputs[5]);
        let mut shapes = vec![x.with(Element::Real)];
        shapes.extend(self.trains_weight.then(|| weight.with(Element::F32)));
        let chunks = 2 + usize::from(self.forward.soft_cap.is_some());
        shapes.extend(self.forward.chunk_shapes(x, weight, chunks));
        shapes
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let [x, targets, statistics, mean, upstream, weight] =
            [0, 1, 2, 3, 4, 5].map(|i| &inputs[i]);
        let first_chunk = 1 + usize::from(self.trains_weight);
        let flat = |transposed, element| Product { transposed, flat: true, element };
        for rows in self.forward.chunks(x.shape.rows()) {
            // Logits, their gradient, and with a cap logits behind it; without, the first again.
            let third = if self.forward.soft_cap.is_some() { first_chunk + 2 } else { first_chunk };
            let [raw, gradient, capped] =
                [first_chunk, first_chunk + 1, third].map(|i| outputs[i].rows(0..rows.len()));
            let x = x.rows(rows.clone());
            let logits = self.forward.record_logits(recorder, [&x, weight], [&raw, &capped]);
            let targets = targets.elements(rows.clone());
            let pairs = statistics.elements(2 * rows.start..2 * rows.end);
            let operands = [logits, &targets, &pairs, mean, upstream, &gradient];
            self.forward.loss.record_backward(recorder, operands);
            let gradient = match self.forward.soft_cap {
                Some(cap) => {
                    let of_capped = [raw, gradient];
                    SoftCapBackward { cap }.record(recorder, &of_capped, slice::from_ref(&capped));
                    capped
                }
                None => gradient,
            };
            let dx = outputs[0].rows(rows.clone());
            let operands = [gradient.clone(), weight.clone()];
            flat(Transposed::Neither, Element::Real).record(recorder, &operands, &[dx]);
            if self.trains_weight {
                let mut dw = outputs[1].clone();
                dw.accumulate |= rows.start > 0;
                flat(Transposed::A, Element::F32).record(recorder, &[gradient, x], &[dw]);
            }
        }
    }

    fn scratch_bytes(&self, machine: Machine, inputs: &[Extent], outputs: &[Extent]) -> u64 {
        let (x, weight) = (&inputs[0].shape, &inputs[5]);
        let flat = |transposed, element| Product { transposed, flat: true, element };
        let of_chunk = |rows: Range<usize>| {
            let matrix = |cols| Extent::whole(Shape { dims: vec![rows.len(), cols], ..x.clone() });
            let [x, gradient] = [x.cols(), weight.shape.dims[0]].map(matrix);
            let operands = [gradient.clone(), weight.clone()];
            let product = flat(Transposed::Neither, Element::Real);
            let of_dx = product.scratch_bytes(machine, &operands, slice::from_ref(&x));
            if !self.trains_weight {
                return of_dx;
            }
            let product = flat(Transposed::A, Element::F32);
            of_dx.max(product.scratch_bytes(machine, &[gradient, x], &outputs[1..2]))
        };
        self.forward.chunks(x.rows()).map(of_chunk).max().unwrap_or(0)
    }

    /// The weight and its gradient may be.
    fn takes_parts(&self, inputs: &[Slot], outputs: &[Slot]) -> bool {
        let weight_gradient = usize::from(self.trains_weight);
        let others = outputs.iter().enumerate().filter(|&(i, _)| i == 0 || i != weight_gradient);
        !inputs[..5].iter().chain(others.map(|(_, slot)| slot)).any(Slot::is_in_parts)
    }

    fn is_f32(&self, input: usize) -> bool {
        (2..5).contains(&input)
    }

    fn accumulates(&self, output: usize) -> bool {
        self.trains_weight && output == 1
    }

    /// The weight.
    fn takes_blocks(&self, input: usize) -> bool {
        input == 5
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let Self { forward, trains_weight } = *self;
        let (x, weight) = (inputs[0], inputs[5]);
        let [raw, capped] = forward.evaluate_logits(x, weight);
        let classes = weight.shape.dims[0];
        let upstream = inputs[4].data[0] * inputs[3].data[1];
        let targets = targets(inputs[1].data);
        let settings = forward.loss.reference(classes);
        let of_capped = reference::cross_entropy_backward(&capped, &targets, &settings, upstream);
        let of_raw = match forward.soft_cap {
            Some(cap) => elementwise::soft_cap_backward(f64::from(cap), &raw, &of_capped),
            None => of_capped.clone(),
        };
        let matmul::Product { rows, cols, inner } = sizes(x, weight);
        let size = matmul::Product { rows, cols: inner, inner: cols };
        let mut outputs = vec![matmul::matmul(&of_raw, weight.data, size)];
        if trains_weight {
            let size = matmul::Product { rows: cols, cols: inner, inner: rows };
            outputs.push(matmul::matmul_transposed_a(&of_raw, x.data, size));
        }
        outputs.extend([&raw, &of_capped].map(|all| forward.left_over(all, classes)));
        if forward.soft_cap.is_some() {
            outputs.push(forward.left_over(&of_raw, classes));
        }
        outputs
    }
}

impl Graph {
    /// [`cross_entropy`](Self::cross_entropy) of x Wᵀ, whose logits never exist as a whole: x
    /// (.., in), weight (classes, in), targets (..). One f32 number.
    #[track_caller]
    pub fn linear_cross_entropy(
        &mut self,
        x: Value,
        weight: Value,
        targets: Value,
        settings: LinearCrossEntropy,
    ) -> Value {
        self.allow_ignored(targets);
        let counts = self.count_targets(targets);
        self.apply(settings, &[x, targets, counts, weight])
    }
}
