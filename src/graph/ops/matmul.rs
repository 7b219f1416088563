//! Matrix products.

use super::first;
use super::gradient_products::Derivative;
use super::product_kernels::{
    at_b_scratch, record_ab, record_ab_t, record_at_b, record_resumed, resumed_scratch,
};
use crate::graph::{Dense, Element, Graph, Node, Op, Shape, Value};
use crate::kernel::Precision;
use crate::kernels::{
    Activation, MatmulParams, MatmulResumedParams, MatmulTransposedAParams, MatmulTransposedBParams,
};
use crate::record::{Extent, Machine, Recorder, Slot, to_u32};
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
#[derive(Clone, Copy)]
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

/// A dimension of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dimension {
    Rows,
    Cols,
    Inner,
}

/// What one dispatch computes of a product: all of it, or a range of one dimension.
struct Piece {
    sizes: Sizes,
    /// The dimension of the range.
    along: Option<Dimension>,
    /// A, B and C: whole, but one of them may be the part that has just this range.
    slots: [Slot; 3],
    /// Where the range begins in each, in quads.
    offsets: [u32; 3],
    /// Quads from row to row of each.
    row_strides: [u32; 3],
    /// Quads from one product to the next in each.
    strides: [u32; 3],
}

impl Product {
    /// Which dimension of the product the stored rows of A, B and C are, and which their columns.
    fn stored(&self) -> [[Dimension; 2]; 3] {
        use Dimension::{Cols, Inner, Rows};
        let a = if self.transposed == Transposed::A { [Inner, Rows] } else { [Rows, Inner] };
        let b = if self.transposed == Transposed::B { [Cols, Inner] } else { [Inner, Cols] };
        [a, b, [Rows, Cols]]
    }

    /// The dispatches that make up the product of A and B: one for each part of the operand that
    /// lies in parts.
    fn pieces(&self, operands: [&Slot; 3]) -> Vec<Piece> {
        let sizes = self.sizes(&operands[0].shape, &operands[1].shape);
        let whole = |along, sizes, offsets| Piece {
            sizes,
            along,
            slots: operands.map(Slot::clone),
            offsets,
            row_strides: operands.map(|slot| to_u32(slot.shape.row_quads())),
            strides: operands.map(|slot| to_u32(slot.shape.quads() / sizes.batch)),
        };
        let Some(divided) = operands.iter().position(|slot| slot.is_in_parts()) else {
            return vec![whole(None, sizes, [0; 3])];
        };
        let stored = self.stored();
        let along = stored[divided][0];
        let pieces = operands[divided].parts().into_iter().map(|(first, part)| {
            let mut sizes = sizes;
            *sizes.along(along) = part.shape.rows();
            let offset = |operand: usize| match stored[operand] {
                _ if operand == divided => 0,
                [rows, _] if rows == along => first * operands[operand].shape.row_quads(),
                [_, cols] if cols == along => first / 4,
                _ => 0,
            };
            let mut piece = whole(Some(along), sizes, [0, 1, 2].map(|i| to_u32(offset(i))));
            piece.slots[divided] = part;
            piece
        });
        pieces.collect()
    }

    /// Whether it makes a tensor as A·B, the form of a linear layer's data gradient.
    pub(in crate::graph) fn is_of_data(&self) -> bool {
        self.transposed == Transposed::Neither && self.element == Element::Real
    }

    /// Records the product of A and B into C; a derivative is for A·B alone.
    pub(super) fn record_pieces(
        &self,
        recorder: &mut Recorder<'_>,
        operands: [&Slot; 3],
        derivative: Option<Derivative<'_>>,
    ) {
        let pieces = self.pieces(operands);
        let last = pieces.len() - 1;
        for (index, piece) in pieces.iter().enumerate() {
            self.record_piece(recorder, piece, [index == 0, index == last], derivative);
        }
    }

    /// Records one piece; `ends` says whether it is the first and whether it is the last.
    fn record_piece(
        &self,
        recorder: &mut Recorder<'_>,
        piece: &Piece,
        ends: [bool; 2],
        derivative: Option<Derivative<'_>>,
    ) {
        let [a, b, c] = piece.slots.each_ref();
        let Sizes { rows, cols, inner, batch } = piece.sizes;
        let [rows, cols, inner, batch] = [rows, cols, inner, batch].map(to_u32);
        macro_rules! strided {
            ($Params:ident) => {
                $Params {
                    batch,
                    accumulate: u32::from(c.accumulate),
                    a_offset: piece.offsets[0],
                    a_row_stride: piece.row_strides[0],
                    a_outer_stride: piece.strides[0],
                    b_offset: piece.offsets[1],
                    b_row_stride: piece.row_strides[1],
                    b_outer_stride: piece.strides[1],
                    c_offset: piece.offsets[2],
                    c_row_stride: piece.row_strides[2],
                    c_outer_stride: piece.strides[2],
                    ..$Params::dense(rows, cols, inner)
                }
            };
        }
        match self.transposed {
            Transposed::Neither if piece.along == Some(Dimension::Inner) => {
                let [is_first, is_last] = ends;
                let params = MatmulResumedParams {
                    resume: u32::from(!is_first),
                    unfinished: u32::from(!is_last),
                    ..strided!(MatmulResumedParams)
                };
                record_resumed(recorder, params, [a, b, c], derivative);
            }
            Transposed::Neither => {
                record_ab(recorder, strided!(MatmulParams), [a, b, c], derivative);
            }
            Transposed::A => record_at_b(recorder, strided!(MatmulTransposedAParams), [a, b, c]),
            Transposed::B => {
                let unused = Slot::new(recorder.unused(), Shape::real([4]));
                let params = strided!(MatmulTransposedBParams);
                record_ab_t(recorder, params, Activation::None, [a, b, b, c, &unused]);
            }
        }
    }
}

impl Sizes {
    fn along(&mut self, dimension: Dimension) -> &mut usize {
        match dimension {
            Dimension::Rows => &mut self.rows,
            Dimension::Cols => &mut self.cols,
            Dimension::Inner => &mut self.inner,
        }
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
        self.record_pieces(recorder, [&inputs[0], &inputs[1], &outputs[0]], None);
    }

    fn scratch_bytes(&self, machine: Machine, inputs: &[Extent], outputs: &[Extent]) -> u64 {
        let (a, b, c) = (&inputs[0], &inputs[1], &outputs[0]);
        let sizes = self.sizes(&a.shape, &b.shape);
        match self.transposed {
            Transposed::Neither if b.is_in_parts() => resumed_scratch(c.shape.quads()),
            Transposed::Neither | Transposed::B => 0,
            Transposed::A => {
                let of_part = |part: Shape| {
                    let rows = if c.is_in_parts() { part.rows() } else { sizes.rows };
                    let [rows, cols, inner, batch] =
                        [rows, sizes.cols, sizes.inner, sizes.batch].map(to_u32);
                    let dense = MatmulTransposedAParams::dense(rows, cols, inner);
                    let params = MatmulTransposedAParams { batch, ..dense };
                    at_b_scratch(machine, &params, part.quads())
                };
                c.parts().into_iter().map(of_part).max().unwrap_or(0)
            }
        }
    }

    /// One matrix product, with one of its three matrices in parts. Of Aᵀ·B that is C, as in the
    /// gradient of a weight.
    fn takes_parts(&self, inputs: &[Slot], outputs: &[Slot]) -> bool {
        let operands = [&inputs[0], &inputs[1], &outputs[0]];
        let in_parts: Vec<_> = (0..3).filter(|&i| operands[i].is_in_parts()).collect();
        let [operand] = in_parts[..] else { return in_parts.is_empty() };
        let is_one = self.sizes(&inputs[0].shape, &inputs[1].shape).batch == 1;
        let is_matrix = operands[operand].shape.dims.len() == 2;
        is_one && is_matrix && (self.transposed != Transposed::A || operand == 2)
    }

    /// B of one product A·B or A·Bᵀ.
    fn takes_blocks(&self, input: usize) -> bool {
        input == 1 && self.flat && self.transposed != Transposed::A
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

impl Graph {
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
