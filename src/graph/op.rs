//! What an operation is: one `impl` in one place, with no central match anywhere.

use std::any::Any;
use std::fmt::Debug;

use super::{Graph, Node, Shape, Value};
use crate::record::{Extent, Machine, Recorder, Slot};
use crate::step::StepInput;

/// A dense tensor on the host, in f64: what [`Op::evaluate`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a> {
    /// Dimensions.
    pub shape: &'a Shape,
    /// Elements in row-major order, without padding; token ids as whole numbers.
    pub data: &'a [f64],
}

/// How what each rank of a run found becomes one value of all; NaN and Inf of one stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverRanks {
    /// The largest of all.
    Largest,
    /// The mean of all.
    Mean,
}

/// An operation of a [`Graph`].
///
/// It may have several outputs: the first is the one [`Graph::apply`] returns, the others are
/// by-products (statistics that the backward pass needs, a fused residual sum). Implement it for
/// your own kernels as well; the `custom_op` example shows one with its gradient. [`Any`] is how
/// [`Graph::backward`] finds those of the crate that it fuses.
pub trait Op: Any + Debug {
    /// Name for labels and reports, usually the kernel's.
    fn name(&self) -> &'static str;

    /// Shapes of the outputs. Panics with both shapes where the inputs do not fit. The default is one
    /// output of the shape of the first input.
    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    /// Adds the operations that turn the gradients of the outputs into gradients of the inputs:
    /// one entry per input, `None` for an input that has none. `upstream` has one entry per
    /// output, `None` where nothing depends on that output; at least one is given. The default, for
    /// gradient operations, panics: [`Graph::backward`] only walks what came before the loss.
    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let _ = (graph, upstream);
        panic!("{} has no gradient: what gradients are made of is not differentiated", node.label)
    }

    /// Records the dispatches that compute the outputs from the inputs.
    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]);

    /// The most bytes that [`record`](Self::record) asks [`Recorder::scratch`] for, with operands of
    /// these extents: what a report before the allocation counts. None by default.
    fn scratch_bytes(&self, machine: Machine, inputs: &[Extent], outputs: &[Extent]) -> u64 {
        let _ = (machine, inputs, outputs);
        0
    }

    /// Whether [`record`](Self::record) can do with these slots where some of them
    /// [lie in parts](Slot::is_in_parts): parameters that no binding of the device holds, their
    /// copies and gradients. By default it cannot, and the plan fails and says so.
    fn takes_parts(&self, inputs: &[Slot], outputs: &[Slot]) -> bool {
        let _ = (inputs, outputs);
        false
    }

    /// Computes the outputs in f64 on the CPU, from the functions in
    /// [`reference`](crate::reference).
    fn evaluate(&self, step: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>>;

    /// Whether the kernels read input `input` as f32 whatever the storage precision: statistics
    /// of a row, a table of angles. All other inputs are brought to the precision that the
    /// operation runs in, and read through `unpack`.
    fn is_f32(&self, input: usize) -> bool {
        let _ = input;
        false
    }

    /// Whether [`record`](Self::record) can read input `input` where it lies in
    /// [blocks](crate::graph::Element::Block). By default it cannot, and
    /// [`Graph::apply`] panics and says so.
    fn takes_blocks(&self, input: usize) -> bool {
        let _ = input;
        false
    }

    /// Whether [`record`](Self::record) adds to output `output` where [`Slot::accumulate`] is set.
    /// Operations whose outputs are gradients of parameters should; for others the plan adds a
    /// dispatch. The outputs that add are all told to, or none is.
    fn accumulates(&self, output: usize) -> bool {
        let _ = output;
        false
    }

    /// Whether the outputs are about the step as a whole: a count over all its microbatches, say.
    /// The plan runs such an operation, and what it is computed from, for every microbatch before
    /// the first forward pass begins, and lets it add where [`Slot::accumulate`] is set. Its outputs
    /// then stay as they are until the next step. It cannot be computed from another such operation.
    /// On several [ranks](crate::train::ranks) its outputs are added up over them, too.
    fn spans_step(&self) -> bool {
        false
    }

    /// How output `output`, of f32, becomes one value of all [ranks](crate::train::ranks) where it is
    /// [observed](Graph::observe) or [read after the update](AfterUpdate::reads); each rank has as
    /// many microbatches. By default it does not: an observation then is the rank's own, and no layer
    /// may read it after the update.
    fn over_ranks(&self, output: usize) -> Option<OverRanks> {
        let _ = output;
        None
    }
}

/// What a layer does to its parameters after each update, on the device: QK-clip, say. It must
/// change nothing in a step that is not applied.
pub trait AfterUpdate: Debug {
    /// The values it reads as the step's forward and backward pass left them; the plan keeps them.
    fn reads(&self) -> Vec<Value>;

    /// Records its dispatches. `value` says where a value of [`reads`](Self::reads) lies,
    /// `parameter` where the weights of a parameter of the graph do that kernels compute with;
    /// `None` for a frozen one, which nothing may change.
    /// Kernels change weights through the fragment
    /// [`WEIGHT_F32`](crate::kernel::shared::WEIGHT_F32), over the whole buffer of the slot; they
    /// are compiled for the storage that the optimizer holds weights in.
    fn record(
        &self,
        recorder: &mut Recorder<'_>,
        value: &dyn Fn(Value) -> Slot,
        parameter: &dyn Fn(usize) -> Option<Slot>,
    );
}
