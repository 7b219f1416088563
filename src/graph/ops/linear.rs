//! Linear layers.

use super::product_kernels::record_ab_t;
use super::{ActivationBackward, Product, Transposed, first};
use crate::graph::{Dense, Element, Graph, Node, Op, Shape, Value};
use crate::kernels::{Activation, MatmulTransposedBParams};
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::elementwise;
use crate::reference::matmul as reference;
use crate::step::StepInput;

/// y = f(x Wᵀ + b); inputs x (.., in), W (out, in), and b (out) if there is one. With an
/// activation the second output is its argument.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// f.
    pub activation: Activation,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (x, weight) = (&inputs[0], &inputs[1]);
        assert!(
            weight.dims.len() == 2 && x.dims.len() > 1 && x.cols() == weight.cols(),
            "linear: x is {x}, the weight (out, in) is {weight}"
        );
        let outputs = weight.dims[0];
        if let Some(bias) = inputs.get(2) {
            assert_eq!(bias.dims, [outputs], "linear: the bias does not fit the weight {weight}");
        }
        let mut y = x.with(Element::Real);
        *y.dims.last_mut().expect("not empty") = outputs;
        if self.activation == Activation::None { vec![y] } else { vec![y.clone(), y] }
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let mut dy = first(upstream);
        if self.activation != Activation::None {
            let op = ActivationBackward { kind: self.activation };
            dy = graph.apply(op, &[node.output(1), dy]);
        }
        let flat = |transposed, element| Product { transposed, flat: true, element };
        let (x, weight) = (node.inputs[0], node.inputs[1]);
        let dx = graph.apply(flat(Transposed::Neither, Element::Real), &[dy, weight]);
        let dw = graph.apply(flat(Transposed::A, Element::F32), &[dy, x]);
        let mut gradients = vec![Some(dx), Some(dw)];
        if node.inputs.len() > 2 {
            gradients.push(Some(graph.column_sum(dy)));
        }
        gradients
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let (x, weight, y) = (&inputs[0], &inputs[1], &outputs[0]);
        let bias = inputs.get(2);
        let unused = Slot::new(recorder.unused(), Shape::real([4]));
        let pre_activation = outputs.get(1).unwrap_or(&unused);
        // Each part of the weight makes some columns of y.
        for (first, part) in weight.parts() {
            let [rows, cols, inner] =
                [x.shape.rows(), part.shape.rows(), part.shape.cols()].map(to_u32);
            let params = MatmulTransposedBParams {
                has_bias: u32::from(bias.is_some()),
                bias_offset: to_u32(first / 4),
                c_offset: to_u32(first / 4),
                c_row_stride: to_u32(y.shape.row_quads()),
                ..MatmulTransposedBParams::dense(rows, cols, inner)
            };
            let slots = [x, &part, bias.unwrap_or(&part), y, pre_activation];
            record_ab_t(recorder, params, self.activation, slots);
        }
    }

    fn takes_parts(&self, inputs: &[Slot], _: &[Slot]) -> bool {
        (0..inputs.len()).all(|input| input == 1 || !inputs[input].is_in_parts())
    }

    /// The weight.
    fn takes_blocks(&self, input: usize) -> bool {
        input == 1
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (x, weight) = (inputs[0], inputs[1]);
        let (rows, cols, inner) = (x.shape.rows(), weight.shape.dims[0], weight.shape.cols());
        let size = reference::Product { rows, cols, inner };
        let mut y = reference::matmul_transposed_b(x.data, weight.data, size);
        if let Some(bias) = inputs.get(2) {
            y = elementwise::broadcast_add(&y, bias.data);
        }
        if self.activation == Activation::None {
            return vec![y];
        }
        vec![elementwise::activate(self.activation, &y), y]
    }
}

impl Graph {
    /// activation(x Wᵀ + bias): x (.., in), weight (out, in), bias (out).
    #[track_caller]
    pub fn linear(
        &mut self,
        x: Value,
        weight: Value,
        bias: Option<Value>,
        activation: Activation,
    ) -> Value {
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        self.apply(Linear { activation }, &inputs)
    }
}
