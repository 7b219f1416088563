//! Newton-Schulz iterations over batches of matrices of one shape.

use super::Muon;
use crate::gpu::Gpu;
use crate::kernels::{
    GradientScan, GradientScanParams, Matmul, MatmulDirect, MatmulParams, MatmulTransposedA,
    MatmulTransposedADirect, MatmulTransposedAParams, MatmulTransposedB, MatmulTransposedBDirect,
    MatmulTransposedBParams, MuonNorm, MuonNormParams, MuonNormalize, MuonNormalizeParams,
    MuonPolynomial, MuonPolynomialParams, OVERFLOW_NONFINITE, TensorRange, chunks,
};
use crate::record::{Recorder, to_u32};
use crate::step::ScanPartial;
use crate::train::optimizers::SegmentTensor;

/// Matrices of one shape that are orthogonalised together.
pub struct Batch<'a> {
    pub rows: u32,
    pub cols: u32,
    pub tensors: Vec<SegmentTensor<'a>>,
    /// First packed quad.
    pub base: u32,
}

impl Batch<'_> {
    pub fn count(&self) -> u32 {
        to_u32(self.tensors.len())
    }

    pub fn matrix_quads(&self) -> u32 {
        self.rows * self.cols.div_ceil(4)
    }

    pub fn quads(&self) -> u32 {
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
pub struct Scratch {
    pub x: wgpu::Buffer,
    next: wgpu::Buffer,
    gram: wgpu::Buffer,
    factor: wgpu::Buffer,
}

impl Scratch {
    /// Quads of each of the two buffers of matrices, and of each of the two of their squares.
    pub fn quads(batches: &[Batch<'_>]) -> [u32; 2] {
        let most = |quads: fn(&Batch<'_>) -> u32| batches.iter().map(quads).max().unwrap_or(0);
        [most(|b| b.quads()), most(|b| b.count() * b.square_quads())]
    }

    pub fn new(gpu: &Gpu, batches: &[Batch<'_>]) -> Self {
        let buffer = |label, quads: u32| gpu.buffer(label, 16 * u64::from(quads));
        let [matrices, squares] = Self::quads(batches);
        Self {
            x: buffer("muon x", matrices),
            next: buffer("muon next x", matrices),
            gram: buffer("muon gram", squares),
            factor: buffer("muon factor", squares),
        }
    }
}

impl Muon {
    /// The nearest matrices with orthonormal rows or columns. Returns which of the scratch buffers
    /// holds them.
    pub(super) fn record_orthogonalization<'s>(
        &self,
        recorder: &mut Recorder<'_>,
        batch: &Batch<'_>,
        scratch: &'s Scratch,
    ) -> &'s wgpu::Buffer {
        self.record_normalization(recorder, batch, scratch);
        let (mut x, mut next) = (&scratch.x, &scratch.next);
        for _ in 0..self.iterations {
            self.record_iteration(recorder, batch, scratch, x, next);
            std::mem::swap(&mut x, &mut next);
        }
        x
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
    let activation = 0;
    if recorder.gpu().is_software() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulTransposedBDirect {
            params,
            activation,
            a,
            b,
            bias,
            c,
            pre_activation,
        });
    } else {
        recorder.set_product_size(params.rows, params.cols, params.inner, params.batch);
        recorder.dispatch(&MatmulTransposedB { params, activation, a, b, bias, c, pre_activation });
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
        recorder.set_product_size(params.rows, params.cols, params.inner, params.batch);
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
        recorder.dispatch(&MatmulDirect::plain(params, [a, b, c]));
    } else {
        recorder.set_product_size(params.rows, params.cols, params.inner, params.batch);
        recorder.dispatch(&Matmul::plain(params, [a, b, c]));
    }
}
