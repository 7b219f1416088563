//! Muon: momentum of hidden matrices, orthogonalised by matrix products.

use std::fmt;

use super::tensor_means::record_eps_shares;
use super::{
    AdamW, Optimizer, Segment, SegmentTensor, check_decay_rate, check_not_negative, check_positive,
    flat_bytes, packed_bytes,
};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::ParameterSpec;
use crate::kernels::{
    AdamwPacked, AdamwPackedParams, GradientScan, GradientScanParams, Matmul, MatmulDirect,
    MatmulParams, MatmulTransposedA, MatmulTransposedADirect, MatmulTransposedAParams,
    MatmulTransposedB, MatmulTransposedBDirect, MatmulTransposedBParams, Muon as MuonKernel,
    MuonMomentum, MuonMomentumParams, MuonNorm, MuonNormParams, MuonNormalize, MuonNormalizeParams,
    MuonParams, MuonPolynomial, MuonPolynomialParams, OVERFLOW_NONFINITE, TensorRange, chunks,
};
use crate::plan::{Recorder, to_u32};
use crate::step::{Chunk, ScanPartial};

/// The most quads that matrices orthogonalised together have: 32 MiB, which bounds the scratch.
/// A larger matrix is alone.
const BATCH_QUADS: u32 = 2 << 20;

/// How the size of an update follows from the shape of its matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MuonScale {
    /// √max(1, rows / cols), with weights stored as (out, in): Jordan's.
    #[default]
    Original,
    /// 0.2 √max(rows, cols): updates have the RMS that AdamW's usually have, so its learning rate
    /// and weight decay can be taken over (Liu et al. 2025, <https://arxiv.org/abs/2502.16982>).
    MatchRmsAdamW,
    /// √(rows / cols), which bounds the change of outputs whatever the width (Bernstein 2025,
    /// <https://jeremybernste.in/writing/deriving-muon>).
    Spectral,
}

impl MuonScale {
    /// The factor for a matrix of this shape.
    pub fn factor(self, rows: usize, cols: usize) -> f64 {
        let ratio = rows as f64 / cols as f64;
        match self {
            Self::Original => ratio.max(1.0).sqrt(),
            Self::MatchRmsAdamW => 0.2 * (rows.max(cols) as f64).sqrt(),
            Self::Spectral => ratio.sqrt(),
        }
    }
}

/// Whether a tensor is a hidden matrix by its shape and name: it has two dimensions, and no part of
/// its dotted name is `head` or `lm_head` or contains `embedding`.
pub fn is_hidden_matrix(spec: &ParameterSpec) -> bool {
    let outer = |part: &str| part == "head" || part == "lm_head" || part.contains("embedding");
    spec.shape.dims.len() == 2 && !spec.name.split('.').any(outer)
}

/// Muon (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>), as `torch.optim.Muon`
/// in f32: for hidden matrices the momentum, orthogonalised. All other tensors go by
/// [`adamw`](Self::adamw).
///
/// ```text
/// b = μ b + (1-μ) g        x = nesterov ? (1-μ) g + μ b : b        x /= max(‖x‖, eps)
/// five times:  G = x xᵀ      x = (a I + b' G + c G²) x      (a, b', c) = coefficients
/// w -= lr (scale x + decay w)
/// ```
///
/// The iteration brings all singular values near 1, so that rare directions move as far as common
/// ones. Where rows outnumber columns it runs with G = xᵀ x from the right, which is the same as
/// transposing. Take it for transformers: it usually needs the fewest steps. It keeps 4 bytes per
/// parameter of a hidden matrix and 8 per other parameter. Matrices of one shape are done together,
/// up to 32 MiB of them, and each step costs 15 products and about 10 passes per such batch beside
/// those of the model; scratch takes four such batches and is no part of what a step commits.
#[derive(Clone, Copy)]
pub struct Muon {
    /// Base learning rate of hidden matrices, which the schedule multiplies.
    pub learning_rate: f64,
    /// Decay rate μ of the momentum.
    pub momentum: f64,
    /// Looks ahead by one momentum step (Nesterov).
    pub nesterov: bool,
    /// Share of a hidden matrix removed per unit of learning rate, whatever its scale.
    pub weight_decay: f64,
    /// How the size of an update follows from the shape of its matrix.
    pub scale: MuonScale,
    /// Newton-Schulz iterations.
    pub iterations: u32,
    /// Their coefficients.
    pub coefficients: [f64; 3],
    /// A norm counts at least this much.
    pub eps: f64,
    /// For all other tensors, without its options; the schedule multiplies its learning rate too.
    pub adamw: AdamW,
    /// Chooses the hidden matrices among the tensors with two dimensions.
    pub hidden: fn(&ParameterSpec) -> bool,
}

impl fmt::Debug for Muon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Muon")
            .field("learning_rate", &self.learning_rate)
            .field("momentum", &self.momentum)
            .field("nesterov", &self.nesterov)
            .field("weight_decay", &self.weight_decay)
            .field("scale", &self.scale)
            .field("iterations", &self.iterations)
            .field("coefficients", &self.coefficients)
            .field("eps", &self.eps)
            .field("adamw", &self.adamw)
            .finish_non_exhaustive()
    }
}

impl Default for Muon {
    /// Learning rate 0.02, momentum 0.95 with Nesterov, weight decay 0.1, scale
    /// [`MuonScale::Original`], 5 iterations with (3.4445, -4.7750, 2.0315), eps 1e-7,
    /// [`is_hidden_matrix`], and AdamW's own defaults.
    fn default() -> Self {
        Self {
            learning_rate: 0.02,
            momentum: 0.95,
            nesterov: true,
            weight_decay: 0.1,
            scale: MuonScale::default(),
            iterations: 5,
            coefficients: [3.4445, -4.7750, 2.0315],
            eps: 1e-7,
            adamw: AdamW::default(),
            hidden: is_hidden_matrix,
        }
    }
}

impl Optimizer for Muon {
    fn moments(&self) -> &'static [&'static str] {
        &["momentum", "m", "v"]
    }

    fn moment_bytes(&self, tensors: &[SegmentTensor<'_>]) -> Vec<u64> {
        let (batches, others) = self.divide(tensors);
        let momentum = batches.iter().map(Batch::quads).sum();
        let other_quads = others.iter().map(SegmentTensor::quads).sum();
        // What holds all tensors in their order, without gaps, is laid out as the gradients are.
        let bytes = |quads: u32, in_order: bool| match flat_bytes(tensors) {
            flat if in_order && flat == 16 * u64::from(quads) => flat,
            _ => packed_bytes(quads, tensors),
        };
        let momentum = bytes(momentum, others.is_empty() && batches.len() == 1);
        let others = bytes(other_quads, batches.is_empty());
        vec![momentum, others, others]
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn betas(&self) -> [f64; 2] {
        self.adamw.betas
    }

    fn validate(&self) -> Result<()> {
        check_positive("learning_rate", self.learning_rate)?;
        check_decay_rate("momentum", self.momentum)?;
        check_not_negative("weight_decay", self.weight_decay)?;
        check_not_negative("eps", self.eps)?;
        self.adamw.validate()?;
        let AdamW { amsgrad, cautious, cautious_decay, .. } = self.adamw;
        if amsgrad || cautious || cautious_decay {
            return Err(Error::Setting {
                setting: "adamw",
                value: format!("{:?}", self.adamw),
                range: "without its options inside Muon",
            });
        }
        Ok(())
    }

    /// Only a whole matrix can be orthogonalised.
    fn takes_parts(&self, spec: &ParameterSpec) -> bool {
        !(spec.shape.dims.len() == 2 && (self.hidden)(spec))
    }

    fn record(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) {
        let (batches, others) = self.divide(segment.layout);
        let scratch = Scratch::new(recorder.gpu(), &batches);
        for batch in &batches {
            self.record_batch(recorder, segment, batch, &scratch);
        }
        self.record_others(recorder, segment, &others);
    }

    fn record_eps_shares(
        &self,
        recorder: &mut Recorder<'_>,
        segment: &Segment<'_>,
        shares: &wgpu::Buffer,
    ) -> bool {
        let (_, others) = self.divide(segment.layout);
        let (chunks, packed) = packed_chunks(&others, 0);
        let at = chunks.iter().zip(&packed).map(|(chunk, &offset)| Chunk { offset, ..*chunk });
        let at: Vec<_> = at.collect();
        let mut first_chunk = 0;
        let layout = others.iter().map(|tensor| {
            let mine = SegmentTensor { first_chunk, ..*tensor };
            first_chunk += tensor.chunk_count;
            mine
        });
        let packed = Segment {
            chunks: &recorder.gpu().upload("packed chunks", &at),
            chunk_count: to_u32(at.len()),
            layout: &layout.collect::<Vec<_>>(),
            ..*segment
        };
        record_eps_shares(recorder, &packed, &segment.moments[2], self.adamw.eps, shares)
    }
}

/// Matrices of one shape that are orthogonalised together.
struct Batch<'a> {
    rows: u32,
    cols: u32,
    tensors: Vec<SegmentTensor<'a>>,
    /// First packed quad.
    base: u32,
}

impl Batch<'_> {
    fn count(&self) -> u32 {
        to_u32(self.tensors.len())
    }

    fn matrix_quads(&self) -> u32 {
        self.rows * self.cols.div_ceil(4)
    }

    fn quads(&self) -> u32 {
        self.count() * self.matrix_quads()
    }

    /// Rows and columns of the square matrices.
    fn size(&self) -> u32 {
        self.rows.min(self.cols)
    }

    fn square_quads(&self) -> u32 {
        self.size() * self.size().div_ceil(4)
    }
}

/// Room for one batch at a time.
struct Scratch {
    x: wgpu::Buffer,
    next: wgpu::Buffer,
    gram: wgpu::Buffer,
    factor: wgpu::Buffer,
}

impl Scratch {
    fn new(gpu: &Gpu, batches: &[Batch<'_>]) -> Self {
        let most = |quads: fn(&Batch<'_>) -> u32| batches.iter().map(quads).max().unwrap_or(0);
        let buffer = |label, quads: u32| gpu.buffer(label, 16 * u64::from(quads));
        let (matrices, squares) = (most(|b| b.quads()), most(|b| b.count() * b.square_quads()));
        Self {
            x: buffer("muon x", matrices),
            next: buffer("muon next x", matrices),
            gram: buffer("muon gram", squares),
            factor: buffer("muon factor", squares),
        }
    }
}

impl Muon {
    /// The hidden matrices in batches, and all other tensors.
    fn divide<'t>(
        &self,
        tensors: &[SegmentTensor<'t>],
    ) -> (Vec<Batch<'t>>, Vec<SegmentTensor<'t>>) {
        let (mut batches, mut others) = (Vec::<Batch<'t>>::new(), Vec::new());
        for tensor in tensors {
            let dims = &tensor.spec.shape.dims;
            if dims.len() != 2 || tensor.quads() == 0 || !(self.hidden)(tensor.spec) {
                others.push(*tensor);
                continue;
            }
            let (rows, cols) = (to_u32(dims[0]), to_u32(dims[1]));
            let fits = |batch: &&mut Batch<'_>| {
                (batch.rows, batch.cols) == (rows, cols)
                    && batch.quads() + batch.matrix_quads() <= BATCH_QUADS
            };
            match batches.iter_mut().find(fits) {
                Some(batch) => batch.tensors.push(*tensor),
                None => batches.push(Batch { rows, cols, tensors: vec![*tensor], base: 0 }),
            }
        }
        let mut base = 0;
        for batch in &mut batches {
            batch.base = base;
            base += batch.quads();
        }
        (batches, others)
    }

    fn record_batch(
        &self,
        recorder: &mut Recorder<'_>,
        segment: &Segment<'_>,
        batch: &Batch<'_>,
        scratch: &Scratch,
    ) {
        let gpu = recorder.gpu();
        let (chunks, packed) = packed_chunks(&batch.tensors, batch.base);
        let chunk_count = to_u32(chunks.len());
        let chunk_table = gpu.upload("muon chunks", &chunks);
        let packed_table = gpu.upload("packed offsets", &packed);
        recorder.dispatch(&MuonMomentum {
            params: MuonMomentumParams {
                chunk_count,
                base: batch.base,
                momentum: self.momentum as f32,
                one_minus_momentum: (1.0 - self.momentum) as f32,
                nesterov: u32::from(self.nesterov),
            },
            state: recorder.step_state(),
            chunks: chunk_table.as_entire_buffer_binding(),
            packed: packed_table.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            gradient: segment.gradient.as_entire_buffer_binding(),
            momentum_buffer: segment.moments[0].as_entire_buffer_binding(),
            x: scratch.x.as_entire_buffer_binding(),
        });
        self.record_normalization(recorder, batch, scratch);
        let (mut x, mut next) = (&scratch.x, &scratch.next);
        for _ in 0..self.iterations {
            self.record_iteration(recorder, batch, scratch, x, next);
            std::mem::swap(&mut x, &mut next);
        }
        let scale = self.scale.factor(batch.rows as usize, batch.cols as usize);
        recorder.dispatch(&MuonKernel {
            params: MuonParams {
                chunk_count,
                base: batch.base,
                scale: scale as f32,
                weight_decay: self.weight_decay as f32,
            },
            state: recorder.step_state(),
            chunks: chunk_table.as_entire_buffer_binding(),
            packed: packed_table.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            x: x.as_entire_buffer_binding(),
            weight: segment.weight.as_entire_buffer_binding(),
        });
    }

    /// x /= max(‖x‖, eps) for each matrix, with norms that no finite x makes overflow.
    fn record_normalization(
        &self,
        recorder: &mut Recorder<'_>,
        batch: &Batch<'_>,
        scratch: &Scratch,
    ) {
        let gpu = recorder.gpu();
        let elements = 4 * u64::from(batch.matrix_quads());
        let table = chunks((0..u64::from(batch.count())).map(|i| (i * elements, elements)));
        let chunk_count = to_u32(table.len());
        let count = chunk_count / batch.count();
        let range = |matrix| TensorRange {
            first: matrix * count,
            count,
            elements: batch.rows * batch.cols,
            target_index: matrix,
        };
        let chunks = gpu.upload("muon x chunks", &table);
        let ranges = gpu.upload("muon ranges", &(0..batch.count()).map(range).collect::<Vec<_>>());
        let partial_bytes = size_of::<ScanPartial>() as u64 * u64::from(chunk_count);
        let partials = gpu.buffer("muon norm partials", partial_bytes);
        let inverse = gpu.buffer("muon inverse norms", 8 * u64::from(batch.count()));
        recorder.dispatch(&GradientScan {
            params: GradientScanParams { chunk_count, overflow_bits: OVERFLOW_NONFINITE },
            chunks: chunks.as_entire_buffer_binding(),
            gradient: scratch.x.as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
        });
        recorder.dispatch(&MuonNorm {
            params: MuonNormParams { matrix_count: batch.count(), eps: self.eps as f32 },
            ranges: ranges.as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
            inverse: inverse.as_entire_buffer_binding(),
        });
        recorder.dispatch(&MuonNormalize {
            params: MuonNormalizeParams { chunk_count },
            chunks: chunks.as_entire_buffer_binding(),
            inverse: inverse.as_entire_buffer_binding(),
            x: scratch.x.as_entire_buffer_binding(),
        });
    }

    /// next = (a I + b G + c G²) x with G = x xᵀ, or x (a I + b G + c G²) with G = xᵀ x.
    fn record_iteration(
        &self,
        recorder: &mut Recorder<'_>,
        batch: &Batch<'_>,
        scratch: &Scratch,
        x: &wgpu::Buffer,
        next: &wgpu::Buffer,
    ) {
        let (rows, cols, size) = (batch.rows, batch.cols, batch.size());
        let (matrix, square) = (batch.matrix_quads(), batch.square_quads());
        let (gram, factor) = (&scratch.gram, &scratch.factor);
        if rows <= cols {
            record_gram_of_rows(recorder, batch, x, gram);
        } else {
            record_gram_of_cols(recorder, batch, x, gram);
        }
        let squares = MatmulParams {
            a_outer_stride: square,
            b_outer_stride: square,
            c_outer_stride: square,
            batch: batch.count(),
            ..MatmulParams::dense(size, size, size)
        };
        record_product(recorder, squares, [gram, gram, factor]);
        let [a, b, c] = self.coefficients.map(|coefficient| coefficient as f32);
        recorder.dispatch(&MuonPolynomial {
            params: MuonPolynomialParams { quads: batch.count() * square, size, a, b, c },
            gram: gram.as_entire_buffer_binding(),
            y: factor.as_entire_buffer_binding(),
        });
        let (left, right, strides) = if rows <= cols {
            (factor, x, [square, matrix])
        } else {
            (x, factor, [matrix, square])
        };
        let update = MatmulParams {
            a_outer_stride: strides[0],
            b_outer_stride: strides[1],
            c_outer_stride: matrix,
            batch: batch.count(),
            ..MatmulParams::dense(rows, cols, size)
        };
        record_product(recorder, update, [left, right, next]);
    }

    /// AdamW for the tensors that are no hidden matrices.
    fn record_others(
        &self,
        recorder: &mut Recorder<'_>,
        segment: &Segment<'_>,
        others: &[SegmentTensor<'_>],
    ) {
        let AdamW { betas, eps, weight_decay, .. } = self.adamw;
        let (chunks, packed) = packed_chunks(others, 0);
        let gpu = recorder.gpu();
        let chunk_table = gpu.upload("adamw chunks", &chunks);
        let packed_table = gpu.upload("packed offsets", &packed);
        recorder.dispatch(&AdamwPacked {
            params: AdamwPackedParams {
                chunk_count: to_u32(chunks.len()),
                beta1: betas[0] as f32,
                one_minus_beta1: (1.0 - betas[0]) as f32,
                beta2: betas[1] as f32,
                one_minus_beta2: (1.0 - betas[1]) as f32,
                eps: eps as f32,
                weight_decay: weight_decay as f32,
                learning_rate_factor: (self.adamw.learning_rate / self.learning_rate) as f32,
            },
            state: recorder.step_state(),
            chunks: chunk_table.as_entire_buffer_binding(),
            packed: packed_table.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            gradient: segment.gradient.as_entire_buffer_binding(),
            weight: segment.weight.as_entire_buffer_binding(),
            m: segment.moments[1].as_entire_buffer_binding(),
            v: segment.moments[2].as_entire_buffer_binding(),
        });
    }
}

/// The chunks of these tensors in the flat buffers, and for each its first quad where the tensors
/// lie one after the other from `base` on.
fn packed_chunks(tensors: &[SegmentTensor<'_>], base: u32) -> (Vec<Chunk>, Vec<u32>) {
    let (mut table, mut packed, mut first) = (Vec::new(), Vec::new(), base);
    for tensor in tensors {
        let place = (4 * u64::from(tensor.offset), 4 * u64::from(tensor.quads()));
        for chunk in chunks([place]) {
            packed.push(first + chunk.offset - tensor.offset);
            table.push(Chunk { tensor: tensor.index, ..chunk });
        }
        first += tensor.quads();
    }
    (table, packed)
}

/// G = x xᵀ.
fn record_gram_of_rows(
    recorder: &mut Recorder<'_>,
    batch: &Batch<'_>,
    x: &wgpu::Buffer,
    gram: &wgpu::Buffer,
) {
    let params = MatmulTransposedBParams {
        a_outer_stride: batch.matrix_quads(),
        b_outer_stride: batch.matrix_quads(),
        c_outer_stride: batch.square_quads(),
        batch: batch.count(),
        ..MatmulTransposedBParams::dense(batch.rows, batch.rows, batch.cols)
    };
    let unused = recorder.unused();
    let bind = wgpu::Buffer::as_entire_buffer_binding;
    let (a, b, bias, c, pre_activation) = (bind(x), bind(x), bind(x), bind(gram), bind(&unused));
    if recorder.gpu().is_software() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulTransposedBDirect { params, a, b, bias, c, pre_activation });
    } else {
        recorder.dispatch(&MatmulTransposedB { params, a, b, bias, c, pre_activation });
    }
}

/// G = xᵀ x.
fn record_gram_of_cols(
    recorder: &mut Recorder<'_>,
    batch: &Batch<'_>,
    x: &wgpu::Buffer,
    gram: &wgpu::Buffer,
) {
    let params = MatmulTransposedAParams {
        a_outer_stride: batch.matrix_quads(),
        b_outer_stride: batch.matrix_quads(),
        c_outer_stride: batch.square_quads(),
        batch: batch.count(),
        ..MatmulTransposedAParams::dense(batch.cols, batch.cols, batch.rows)
    };
    let bind = wgpu::Buffer::as_entire_buffer_binding;
    let (a, b, c) = (bind(x), bind(x), bind(gram));
    if recorder.gpu().is_software() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulTransposedADirect { params, a, b, c });
    } else {
        recorder.dispatch(&MatmulTransposedA { params, a, b, c });
    }
}

fn record_product(
    recorder: &mut Recorder<'_>,
    params: MatmulParams,
    [a, b, c]: [&wgpu::Buffer; 3],
) {
    let [a, b, c] = [a, b, c].map(wgpu::Buffer::as_entire_buffer_binding);
    if recorder.gpu().is_software() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulDirect { params, a, b, c });
    } else {
        recorder.dispatch(&Matmul { params, a, b, c });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Shape;
    use crate::nn::Init;

    fn spec(name: &str, dims: &[usize]) -> ParameterSpec {
        let (name, shape) = (name.to_owned(), Shape::real(dims));
        ParameterSpec { name, shape, init: Init::Constant(0.0), stream: 0 }
    }

    #[test]
    fn hidden_matrices_are_found_by_shape_and_name() {
        for (name, dims, hidden) in [
            ("blocks.0.attention.qkv.weight", &[48, 16][..], true),
            ("heads.weight", &[4, 4], true),
            ("blocks.0.attention.qkv.bias", &[48], false),
            ("token_embedding.weight", &[27, 16], false),
            ("head.weight", &[27, 16], false),
            ("lm_head.weight", &[27, 16], false),
            ("convolution.weight", &[8, 3, 3, 3], false),
        ] {
            assert_eq!(is_hidden_matrix(&spec(name, dims)), hidden, "{name}");
        }
    }

    #[test]
    fn batches_hold_one_shape_and_have_a_bound() {
        let shapes =
            [[1024, 4096], [4096, 4096], [1024, 4096], [4096, 1024], [1024, 4096], [4096, 4096]];
        let specs: Vec<_> = shapes.iter().map(|dims| spec("w", dims)).collect();
        let mut offset = 0;
        let tensors = specs.iter().zip(0..).map(|(spec, index)| {
            let tensor = SegmentTensor::new(spec, index, offset, 0);
            offset += tensor.quads();
            tensor
        });
        let tensors: Vec<_> = tensors.collect();
        let (batches, others) = Muon::default().divide(&tensors);
        assert!(others.is_empty());
        let indices = |batch: &Batch<'_>| batch.tensors.iter().map(|t| t.index).collect::<Vec<_>>();
        let found: Vec<_> =
            batches.iter().map(|batch| (batch.base >> 20, indices(batch))).collect();
        let expected = [(0, vec![0, 2]), (2, vec![1]), (6, vec![3]), (7, vec![4]), (8, vec![5])];
        assert_eq!(found, expected);
        let bytes = Muon::default().moment_bytes(&tensors);
        // All momentum, but not the size that would say it is laid out as the gradients are.
        assert_eq!(bytes, [16 * u64::from(offset) + 16, 16, 16]);
    }

    #[test]
    fn scales_follow_from_shapes() {
        use MuonScale::*;
        assert_eq!(Original.factor(4, 16), 1.0);
        assert_eq!(Original.factor(16, 4), 2.0);
        assert_eq!(MatchRmsAdamW.factor(4, 16), 0.8);
        assert_eq!(Spectral.factor(4, 16), 0.5);
    }
}
