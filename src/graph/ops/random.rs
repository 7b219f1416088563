//! Operations that draw random numbers.

use super::first;
use crate::graph::{Dense, Graph, Node, Op, Value};
use crate::kernels::{Dropout as DropoutKernel, DropoutParams};
use crate::record::{Recorder, Slot, quads};
use crate::reference::random as reference;
use crate::step::StepInput;

/// Dropout. Its gradient is the same operation on the upstream: the mask is a function of the
/// stream, the step and the position, and is drawn again instead of kept.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Share of elements set to zero.
    pub probability: f32,
    /// Random stream; no two layers share one.
    pub stream: u32,
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        _: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        vec![Some(graph.apply(*self, &[first(upstream)]))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let step_input = recorder.step_input();
        recorder.dispatch(&DropoutKernel {
            params: DropoutParams::new(quads(&inputs[0].shape), self.stream, self.probability),
            step_input,
            x: inputs[0].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, step: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (x, probability) = (inputs[0], f64::from(self.probability));
        vec![reference::dropout(probability, self.stream, step, x.shape.cols(), x.data)]
    }
}

impl Graph {
    /// Zeroes elements with a probability in [0, 1) and scales the others by its complement.
    #[track_caller]
    pub fn dropout(&mut self, x: Value, probability: f32) -> Value {
        let stream = self.stream();
        self.apply(Dropout { probability, stream }, &[x])
    }
}
