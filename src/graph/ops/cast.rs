//! From one storage precision to another.

use super::first;
use crate::graph::{Dense, Element, Graph, Node, Op, Shape, Value};
use crate::kernel::Precision;
use crate::kernels::{CastFromF32, CastFromF32Params, CastToF32, CastToF32Params};
use crate::record::{Recorder, Slot, quads};
use crate::step::StepInput;

/// y = x, stored in another precision; one of the two is f32. The f64 evaluation does not round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The precision of y.
    pub to: Precision,
}

impl Op for Cast {
    fn name(&self) -> &'static str {
        if self.to == Precision::F32 { "cast_to_f32" } else { "cast_from_f32" }
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        vec![inputs[0].with(Element::Real).stored_as(self.to)]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let precision = graph.shape(node.inputs[0]).precision;
        vec![Some(graph.cast(first(upstream), precision))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let quads = quads(&inputs[0].shape);
        let (x, y) = (inputs[0].binding(), outputs[0].binding());
        if self.to == Precision::F32 {
            recorder.dispatch(&CastToF32 { params: CastToF32Params { quads }, x, y });
        } else {
            recorder.dispatch(&CastFromF32 { params: CastFromF32Params { quads }, x, y });
        }
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![inputs[0].data.to_vec()]
    }
}

impl Graph {
    /// x, stored in another precision; the value itself where it already is. No value is cast to
    /// the same precision twice.
    #[track_caller]
    pub fn cast(&mut self, x: Value, precision: Precision) -> Value {
        match (self.shape(x).precision, precision) {
            (from, to) if from == to => x,
            (Precision::F32, half) | (half, Precision::F32) => {
                self.push_cast(x, Cast { to: precision }, half)
            }
            _ => {
                let single = self.cast(x, Precision::F32);
                self.cast(single, precision)
            }
        }
    }
}
