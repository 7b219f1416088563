//! Where the backward pass begins.

use crate::graph::{Dense, Graph, Node, Op, Shape, Value};
use crate::kernels::{SeedGradient as SeedGradientKernel, SeedGradientParams};
use crate::record::{Recorder, Slot};
use crate::step::StepInput;

/// The gradient of the loss: the step's loss scale times `factor`. In [`Op::evaluate`] the loss
/// scale is 1.
#[derive(Clone, Copy, Debug)]
pub struct SeedGradient {
    /// 1 / microbatches.
    pub factor: f32,
}

impl Op for SeedGradient {
    fn name(&self) -> &'static str {
        "seed_gradient"
    }

    fn shapes(&self, _: &[Shape]) -> Vec<Shape> {
        vec![Shape::f32([1])]
    }

    fn gradient(&self, _: &mut Graph, _: &Node, _: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![]
    }

    fn record(&self, recorder: &mut Recorder<'_>, _: &[Slot], outputs: &[Slot]) {
        let state = recorder.step_state();
        recorder.dispatch(&SeedGradientKernel {
            params: SeedGradientParams { factor: self.factor },
            state,
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, _: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![vec![f64::from(self.factor)]]
    }
}
