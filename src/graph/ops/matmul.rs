//! Matrix products and linear layers.

use super::{ActivationBackward, first};
use crate::graph::{Dense, Element, Graph, Node, Op, Shape, Value};
use crate::kernel::Precision;
use crate::kernels::{
    Activation, Matmul, MatmulDirect, MatmulParams, MatmulTransposedA, MatmulTransposedADirect,
    MatmulTransposedAParams, MatmulTransposedB, MatmulTransposedBDirect, MatmulTransposedBParams,
};
use crate::record::{Recorder, Slot, to_u32};
use crate::reference::elementwise;
use crate::reference::matmul as reference;
use crate::step::StepInput;

/// Which operand of a product is stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transposed {
    /// C = A·B.
    Neither,
    /// C = A·Bᵀ.
    B,
    /// C = Aᵀ·B.
    A,
}

/// A product of matrices, or of equally many matrices in the leading dimensions.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// How the operands are stored.
    pub transposed: Transposed,
    /// Takes A, and with it B or C, as one matrix whose rows are all leading dimensions: what a
    /// linear layer does.
    pub flat: bool,
    /// Element type of the result: f32 for gradients of parameters.
    pub element: Element,
}

/// Sizes of one product and how often it is done.
struct Sizes {
    rows: usize,
    cols: usize,
    inner: usize,
    batch: usize,
}

impl Product {
    fn sizes(&self, a: &Shape, b: &Shape) -> Sizes {
        let matrix = |shape: &Shape, flat: bool| {
            assert!(shape.dims.len() > 1, "matmul needs matrices, not {shape}");
            let rows = shape.dims[shape.dims.len() - 2];
            if flat {
                (shape.rows(), shape.cols(), 1)
            } else {
                (rows, shape.cols(), shape.rows() / rows)
            }
        };
        let (a_rows, a_cols, a_batch) = matrix(a, self.flat);
        let (b_rows, b_cols, b_batch) = matrix(b, self.flat);
        let (rows, inner) = match self.transposed {
            Transposed::A => (a_cols, a_rows),
            _ => (a_rows, a_cols),
        };
        let (cols, b_inner) = match self.transposed {
            Transposed::B => (b_rows, b_cols),
            _ => (b_cols, b_rows),
        };
        assert!(
            inner == b_inner && a_batch == b_batch,
            "matmul ({:?} transposed): shapes {a} and {b} do not fit",
            self.transposed
        );
        Sizes { rows, cols, inner, batch: a_batch }
    }
}

impl Op for Product {
    fn name(&self) -> &'static str {
        match self.transposed {
            Transposed::Neither => "matmul",
            Transposed::B => "matmul_transposed_b",
            Transposed::A => "matmul_transposed_a",
        }
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let Sizes { rows, cols, .. } = self.sizes(a, b);
        let leading = match (self.flat, self.transposed) {
            (true, Transposed::A) => vec![rows],
            (true, _) => a.dims[..a.dims.len() - 1].to_vec(),
            (false, _) => [&a.dims[..a.dims.len() - 2], &[rows]].concat(),
        };
        vec![Shape { dims: [&leading[..], &[cols]].concat(), ..a.with(self.element) }]
    }

    fn gradient(
        &self,
        graph: &mut Graph,
        node: &Node,
        upstream: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        assert!(!self.flat, "{} is a gradient operation", node.label);
        let (dy, a, b) = (first(upstream), node.inputs[0], node.inputs[1]);
        let mut product = |transposed, a, b| Some(graph.product(transposed, a, b));
        match self.transposed {
            Transposed::Neither => {
                vec![product(Transposed::B, dy, b), product(Transposed::A, a, dy)]
            }
            Transposed::B => {
                vec![product(Transposed::Neither, dy, b), product(Transposed::A, dy, a)]
            }
            Transposed::A => {
                vec![product(Transposed::B, b, dy), product(Transposed::Neither, a, dy)]
            }
        }
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let (a, b, c) = (&inputs[0], &inputs[1], &outputs[0]);
        let Sizes { rows, cols, inner, batch } = self.sizes(&a.shape, &b.shape);
        let matrix = |slot: &Slot| to_u32(slot.shape.quads() / batch);
        let accumulate = u32::from(c.accumulate);
        let [rows, cols, inner, count] = [rows, cols, inner, batch].map(to_u32);
        macro_rules! strided {
            ($Params:ident) => {
                $Params {
                    batch: count,
                    accumulate,
                    a_outer_stride: matrix(a),
                    b_outer_stride: matrix(b),
                    c_outer_stride: matrix(c),
                    ..$Params::dense(rows, cols, inner)
                }
            };
        }
        match self.transposed {
            Transposed::Neither => record_ab(recorder, strided!(MatmulParams), [a, b, c]),
            Transposed::A => record_at_b(recorder, strided!(MatmulTransposedAParams), [a, b, c]),
            Transposed::B => {
                let unused = recorder.unused();
                let unused = Slot::new(unused, Shape::real([4]));
                let params = strided!(MatmulTransposedBParams);
                record_ab_t(recorder, params, [a, b, b, c, &unused]);
            }
        }
    }

    fn evaluate(&self, _: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let (a, b) = (inputs[0], inputs[1]);
        let Sizes { rows, cols, inner, batch } = self.sizes(a.shape, b.shape);
        let size = reference::Product { rows, cols, inner };
        let product = match self.transposed {
            Transposed::Neither => reference::matmul,
            Transposed::B => reference::matmul_transposed_b,
            Transposed::A => reference::matmul_transposed_a,
        };
        let matrices = a.data.chunks(a.data.len() / batch).zip(b.data.chunks(b.data.len() / batch));
        vec![matrices.flat_map(|(a, b)| product(a, b, size)).collect()]
    }

    fn accumulates(&self, _: usize) -> bool {
        true
    }
}

fn record_ab(recorder: &mut Recorder<'_>, params: MatmulParams, [a, b, c]: [&Slot; 3]) {
    let [a, b, c] = [a, b, c].map(Slot::binding);
    if !recorder.tiled_products() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulDirect { params, a, b, c });
    } else {
        recorder.dispatch(&Matmul { params, a, b, c });
    }
}

fn record_at_b(
    recorder: &mut Recorder<'_>,
    params: MatmulTransposedAParams,
    [a, b, c]: [&Slot; 3],
) {
    let [a, b, c] = [a, b, c].map(Slot::binding);
    if !recorder.tiled_products() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulTransposedADirect { params, a, b, c });
    } else {
        recorder.dispatch(&MatmulTransposedA { params, a, b, c });
    }
}

fn record_ab_t(
    recorder: &mut Recorder<'_>,
    params: MatmulTransposedBParams,
    [a, b, bias, c, pre_activation]: [&Slot; 5],
) {
    let [a, b, bias, c] = [a, b, bias, c].map(Slot::binding);
    let pre_activation = pre_activation.binding();
    if !recorder.tiled_products() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulTransposedBDirect { params, a, b, bias, c, pre_activation });
    } else {
        recorder.dispatch(&MatmulTransposedB { params, a, b, bias, c, pre_activation });
    }
}

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
        let (x, weight) = (&inputs[0], &inputs[1]);
        let bias = inputs.get(2);
        let unused = Slot::new(recorder.unused(), Shape::real([4]));
        let [rows, cols, inner] =
            [x.shape.rows(), weight.shape.dims[0], weight.shape.cols()].map(to_u32);
        let params = MatmulTransposedBParams {
            has_bias: u32::from(bias.is_some()),
            activation: self.activation as u32,
            ..MatmulTransposedBParams::dense(rows, cols, inner)
        };
        let pre_activation = outputs.get(1).unwrap_or(&unused);
        let slots = [x, weight, bias.unwrap_or(weight), &outputs[0], pre_activation];
        record_ab_t(recorder, params, slots);
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

    /// A·B of (.., rows, inner) and (.., inner, cols), with equal leading dimensions.
    #[track_caller]
    pub fn matmul(&mut self, a: Value, b: Value) -> Value {
        self.product(Transposed::Neither, a, b)
    }

    /// A·Bᵀ of (.., rows, inner) and (.., cols, inner), with equal leading dimensions.
    #[track_caller]
    pub fn matmul_transposed_b(&mut self, a: Value, b: Value) -> Value {
        self.product(Transposed::B, a, b)
    }

    /// Aᵀ·B of (.., inner, rows) and (.., inner, cols), with equal leading dimensions.
    #[track_caller]
    pub fn matmul_transposed_a(&mut self, a: Value, b: Value) -> Value {
        self.product(Transposed::A, a, b)
    }

    /// The kernels of Aᵀ·B write f32, for gradients of parameters; in half precision a cast makes
    /// a tensor of it.
    #[track_caller]
    fn product(&mut self, transposed: Transposed, a: Value, b: Value) -> Value {
        let half = self.precision() != Precision::F32;
        if transposed == Transposed::A && half {
            let product = Product { transposed, flat: false, element: Element::F32 };
            let single = self.apply(product, &[a, b]);
            return self.cast(single, self.precision());
        }
        self.apply(Product { transposed, flat: false, element: Element::Real }, &[a, b])
    }
}
