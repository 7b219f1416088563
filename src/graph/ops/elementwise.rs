//! Operations that treat every element alike.

use super::{assert_same_shape, first};
use crate::graph::{Dense, Graph, Node, Op, Shape, Value};
use crate::kernels::{
    Activate, ActivateBackward, ActivateBackwardParams, ActivateParams, Activation,
    Add as AddKernel, AddParams, Gated as GatedKernel, GatedBackward as GatedBackwardKernel,
    GatedBackwardParams, GatedParams, Multiply as MultiplyKernel, MultiplyParams,
    Scale as ScaleKernel, ScaleParams, SoftCap as SoftCapKernel,
    SoftCapBackward as SoftCapBackwardKernel, SoftCapBackwardParams, SoftCapParams,
};
use crate::record::{Recorder, Slot, quads, to_u32};
use crate::reference::elementwise as reference;
use crate::step::StepInput;

/// y = a + b.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        assert_same_shape("add", &inputs[0], &inputs[1]);
        vec![inputs[0].clone()]
    }

    fn gradient(&self, _: &mut Graph, _: &Node, upstream: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![upstream[0], upstream[0]]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&AddKernel {
            params: AddParams { quads: quads(&inputs[0].shape) },
            a: inputs[0].binding(),
            b: inputs[1].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![reference::add(inputs[0].data, inputs[1].data)]
    }
}

/// y = a * b.
#[derive(Clone, Copy, Debug)]
pub struct Multiply;

impl Op for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        assert_same_shape("multiply", &inputs[0], &inputs[1]);
        vec![inputs[0].clone()]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let dy = first(upstream);
        let [a, b] = [node.inputs[0], node.inputs[1]];
        vec![Some(graph.multiply(dy, b)), Some(graph.multiply(dy, a))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&MultiplyKernel {
            params: MultiplyParams { quads: quads(&inputs[0].shape) },
            a: inputs[0].binding(),
            b: inputs[1].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![reference::multiply(inputs[0].data, inputs[1].data)]
    }
}

/// y = factor * x.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The factor.
    pub factor: f32,
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        _: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        vec![Some(graph.scale(first(upstream), self.factor))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&ScaleKernel {
            params: ScaleParams { quads: quads(&inputs[0].shape), factor: self.factor },
            x: inputs[0].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![reference::scale(f64::from(self.factor), inputs[0].data)]
    }
}

/// y = f(x).
#[derive(Clone, Copy, Debug)]
pub struct ActivationOp {
    /// f.
    pub kind: Activation,
}

impl Op for ActivationOp {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let op = ActivationBackward { kind: self.kind };
        vec![Some(graph.apply(op, &[node.inputs[0], first(upstream)]))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&Activate {
            params: ActivateParams { quads: quads(&inputs[0].shape), kind: self.kind as u32 },
            x: inputs[0].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![reference::activate(self.kind, inputs[0].data)]
    }
}

/// dx = dy * f'(x); inputs x, dy.
#[derive(Clone, Copy, Debug)]
pub struct ActivationBackward {
    /// f.
    pub kind: Activation,
}

impl Op for ActivationBackward {
    fn name(&self) -> &'static str {
        "activate_backward"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        assert_same_shape("activate_backward", &inputs[0], &inputs[1]);
        vec![inputs[0].clone()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let quads = quads(&inputs[0].shape);
        recorder.dispatch(&ActivateBackward {
            params: ActivateBackwardParams { quads, kind: self.kind as u32 },
            x: inputs[0].binding(),
            dy: inputs[1].binding(),
            x_gradient: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![reference::activate_backward(self.kind, inputs[0].data, inputs[1].data)]
    }
}

/// y = f(gate) * up, where x (.., 2 * hidden) holds the gate in its first half.
#[derive(Clone, Copy, Debug)]
pub struct Gated {
    /// f.
    pub kind: Activation,
}

impl Op for Gated {
    fn name(&self) -> &'static str {
        match self.kind {
            Activation::Silu => "swiglu",
            Activation::GeluTanh | Activation::GeluErf => "geglu",
            _ => "gated",
        }
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let mut shape = inputs[0].clone();
        let cols = shape.cols();
        let name = self.name();
        assert!(cols.is_multiple_of(8), "{name} needs two halves of whole quads, not {shape}");
        *shape.dims.last_mut().expect("not empty") = cols / 2;
        vec![shape]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let op = GatedBackward { kind: self.kind };
        vec![Some(graph.apply(op, &[node.inputs[0], first(upstream)]))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &outputs[0].shape;
        recorder.dispatch(&GatedKernel {
            params: GatedParams {
                quads: quads(shape),
                hidden_quads: to_u32(shape.row_quads()),
                kind: self.kind as u32,
            },
            x: inputs[0].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![reference::gated(self.kind, inputs[0].shape.cols() / 2, inputs[0].data)]
    }
}

/// The gradient of [`Gated`]; inputs x, dy.
#[derive(Clone, Copy, Debug)]
pub struct GatedBackward {
    /// As in [`Gated`].
    pub kind: Activation,
}

impl Op for GatedBackward {
    fn name(&self) -> &'static str {
        match self.kind {
            Activation::Silu => "swiglu_backward",
            Activation::GeluTanh | Activation::GeluErf => "geglu_backward",
            _ => "gated_backward",
        }
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let shape = &inputs[1].shape;
        recorder.dispatch(&GatedBackwardKernel {
            params: GatedBackwardParams {
                quads: quads(shape),
                hidden_quads: to_u32(shape.row_quads()),
                kind: self.kind as u32,
            },
            x: inputs[0].binding(),
            dy: inputs[1].binding(),
            x_gradient: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let hidden = inputs[1].shape.cols();
        vec![reference::gated_backward(self.kind, hidden, inputs[0].data, inputs[1].data)]
    }
}

/// y = cap * tanh(x / cap).
#[derive(Clone, Copy, Debug)]
pub struct SoftCap {
    /// The bound that y approaches.
    pub cap: f32,
}

impl Op for SoftCap {
    fn name(&self) -> &'static str {
        "soft_cap"
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let op = SoftCapBackward { cap: self.cap };
        vec![Some(graph.apply(op, &[node.inputs[0], first(upstream)]))]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&SoftCapKernel {
            params: SoftCapParams { quads: quads(&inputs[0].shape), cap: self.cap },
            x: inputs[0].binding(),
            y: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![reference::soft_cap(f64::from(self.cap), inputs[0].data)]
    }
}

/// The gradient of [`SoftCap`]; inputs x, dy.
#[derive(Clone, Copy, Debug)]
pub struct SoftCapBackward {
    /// As in [`SoftCap`].
    pub cap: f32,
}

impl Op for SoftCapBackward {
    fn name(&self) -> &'static str {
        "soft_cap_backward"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        assert_same_shape("soft_cap_backward", &inputs[0], &inputs[1]);
        vec![inputs[0].clone()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        recorder.dispatch(&SoftCapBackwardKernel {
            params: SoftCapBackwardParams { quads: quads(&inputs[0].shape), cap: self.cap },
            x: inputs[0].binding(),
            dy: inputs[1].binding(),
            x_gradient: outputs[0].binding(),
        });
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        vec![reference::soft_cap_backward(f64::from(self.cap), inputs[0].data, inputs[1].data)]
    }
}

impl Graph {
    /// a + b, of one shape.
    #[track_caller]
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.apply(Add, &[a, b])
    }

    /// a * b element by element, of one shape.
    #[track_caller]
    pub fn multiply(&mut self, a: Value, b: Value) -> Value {
        self.apply(Multiply, &[a, b])
    }

    /// factor * x.
    #[track_caller]
    pub fn scale(&mut self, x: Value, factor: f32) -> Value {
        self.apply(Scale { factor }, &[x])
    }

    /// f(x).
    #[track_caller]
    pub fn activation(&mut self, x: Value, kind: Activation) -> Value {
        if kind == Activation::None { x } else { self.apply(ActivationOp { kind }, &[x]) }
    }

    /// x (.., 2 * hidden) to silu(first half) * second half (.., hidden).
    #[track_caller]
    pub fn swiglu(&mut self, x: Value) -> Value {
        self.gated(x, Activation::Silu)
    }

    /// x (.., 2 * hidden) to f(first half) * second half (.., hidden).
    #[track_caller]
    pub fn gated(&mut self, x: Value, kind: Activation) -> Value {
        self.apply(Gated { kind }, &[x])
    }

    /// cap * tanh(x / cap), which never exceeds the cap.
    #[track_caller]
    pub fn soft_cap(&mut self, x: Value, cap: f32) -> Value {
        assert!(cap > 0.0, "a soft cap of {cap}");
        self.apply(SoftCap { cap }, &[x])
    }
}
