//! Adafactor: second moments by row and column, steps sized by the weights.

use super::tensor_means::chunk_range;
use super::{
    MomentShare, Optimizer, Rule, Segment, SegmentTensor, check_not_negative, check_positive,
};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::Shape;
use crate::kernels::{
    AdafactorFactors, AdafactorFactorsParams, AdafactorParams, AdafactorScan, AdafactorScanParams,
    AdafactorSquares, AdafactorSquaresParams, FACTOR_BLOCK_QUADS, FactorBlock, FactoredTensor,
    RULE_INVERSE_ROOT_ABOVE, RULE_MEAN, RULE_ROOT_MEAN, TILE_QUADS, TILE_ROWS, TensorFactors,
    TensorFactorsParams, TensorRange, Tile, WeightSquares, WeightSquaresParams,
};
use crate::record::{Recorder, to_u32};

/// Adafactor (Shazeer and Stern 2018, <https://arxiv.org/abs/1804.04235>), as
/// `torch.optim.Adafactor`.
///
/// ```text
/// s = t^beta2_decay        r += s (mean of g² over columns - r)        c += s (.. over rows - c)
/// u = g / √max(r cᵀ / max(mean r, eps1), eps1²)        ρ = min(lr, 1/√t)
/// w -= lr decay w + max(eps2, rms(w)) ρ u / max(1, rms(u) / clip_threshold)
/// ```
///
/// A tensor with more than two dimensions is as many matrices as its leading ones say; one with a
/// single dimension keeps a mean square per element, v += s (g² - v), in the place of r cᵀ. It
/// keeps a number per row and per column of each matrix and none per element, the least memory of
/// all, and takes 8 dispatches, which read each gradient three times and each weight twice. Steps
/// are relative to the size of the weights, so a learning rate suits models of any width. Gradients
/// count at most 1e15 and weights 1e14, whose squares still add up in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adafactor {
    /// Largest relative step, on which the schedule acts.
    pub learning_rate: f64,
    /// Exponent of the share of step t in what is kept; -1 weighs all steps alike.
    pub beta2_decay: f64,
    /// Bound on what updates are divided by, and on the RMS of weights that steps are relative to.
    pub eps: [f64; 2],
    /// The RMS of an update is at most this.
    pub clip_threshold: f64,
    /// Share of a weight removed per unit of learning rate; by default only from tensors with two
    /// or more dimensions.
    pub weight_decay: f64,
}

impl Default for Adafactor {
    /// Learning rate 1e-2, beta2_decay -0.8, eps (2^-23, 1e-3), clip threshold 1, no weight decay:
    /// PyTorch's defaults for f32.
    fn default() -> Self {
        Self {
            learning_rate: 1e-2,
            beta2_decay: -0.8,
            eps: [f64::from(f32::EPSILON), 1e-3],
            clip_threshold: 1.0,
            weight_decay: 0.0,
        }
    }
}

impl Optimizer for Adafactor {
    fn name(&self) -> &'static str {
        "Adafactor"
    }

    fn moments(&self) -> &'static [&'static str] {
        &["variance"]
    }

    fn squares(&self) -> &'static [&'static str] {
        &["variance"]
    }

    fn moment_bytes(&self, tensors: &[SegmentTensor<'_>]) -> Vec<u64> {
        vec![16 * u64::from(Layout::new(tensors).variance_quads)]
    }

    /// Of a matrix the mean squares of its rows, then of its columns, with their padding.
    fn moment_shares(&self, tensors: &[SegmentTensor<'_>]) -> Vec<Vec<MomentShare>> {
        let mut layout = Layout::new(&[]);
        layout.shapes.resize(table_rows(tensors), FactoredTensor::default());
        let shares = tensors.iter().enumerate().map(|(index, tensor)| {
            let first = layout.variance_quads;
            layout.add(tensor);
            let shape = if tensor.spec.shape.dims.len() > 1 {
                Shape::f32([4 * (layout.variance_quads - first) as usize])
            } else {
                tensor.spec.shape.clone()
            };
            MomentShare { tensor: index, first, shape }
        });
        vec![shares.collect()]
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn validate(&self) -> Result<()> {
        check_not_negative("learning_rate", self.learning_rate)?;
        if !(-1.0..=0.0).contains(&self.beta2_decay) {
            let (setting, value) = ("beta2_decay", self.beta2_decay.to_string());
            return Err(Error::Setting { setting, value, range: "in [-1, 0]" });
        }
        check_not_negative("eps1", self.eps[0])?;
        check_not_negative("eps2", self.eps[1])?;
        check_positive("clip_threshold", self.clip_threshold)?;
        check_not_negative("weight_decay", self.weight_decay)
    }

    fn rule(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>) -> Rule {
        let tables = Tables::new(recorder.gpu(), segment);
        self.record_factors(recorder, segment, &tables);
        self.record_sizes(recorder, segment, &tables);
        Rule::new(AdafactorParams {
            chunk_count: segment.chunk_count,
            weight_decay: self.weight_decay as f32,
            decay_power: (-self.beta2_decay) as f32,
            eps1: self.eps[0] as f32,
            eps2: self.eps[1] as f32,
        })
        .bind("shapes", &tables.shapes)
        .bind("factors", &tables.factors)
    }
}

impl Adafactor {
    /// Root mean squares of weights, and factors on the updates.
    fn record_sizes(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>, tables: &Tables) {
        recorder.dispatch(&WeightSquares {
            params: WeightSquaresParams { chunk_count: segment.chunk_count },
            chunks: segment.chunks.as_entire_buffer_binding(),
            weight: segment.weight.as_entire_buffer_binding(),
            partials: tables.squares.as_entire_buffer_binding(),
        });
        tables.record(recorder, &tables.weight_rms, &tables.squares, RULE_ROOT_MEAN, 0.0);

        recorder.dispatch(&AdafactorSquares {
            params: AdafactorSquaresParams {
                chunk_count: segment.chunk_count,
                decay_power: (-self.beta2_decay) as f32,
                eps1: self.eps[0] as f32,
            },
            state: recorder.step_state(),
            chunks: segment.chunks.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            shapes: tables.shapes.as_entire_buffer_binding(),
            gradient: segment.gradient.as_entire_buffer_binding(),
            variance: segment.moments[0].as_entire_buffer_binding(),
            factors: tables.factors.as_entire_buffer_binding(),
            partials: tables.squares.as_entire_buffer_binding(),
        });
        let bound = self.clip_threshold as f32;
        let updates = &tables.update_factors;
        tables.record(recorder, updates, &tables.squares, RULE_INVERSE_ROOT_ABOVE, bound);
    }

    /// Mean squares of rows and columns, advanced, and the means of the row variances.
    fn record_factors(&self, recorder: &mut Recorder<'_>, segment: &Segment<'_>, tables: &Tables) {
        let state = recorder.step_state();
        recorder.dispatch(&AdafactorScan {
            params: AdafactorScanParams { tile_count: tables.tile_count },
            state: state.clone(),
            tiles: tables.tiles.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            gradient: segment.gradient.as_entire_buffer_binding(),
            partials: tables.sums.as_entire_buffer_binding(),
        });
        recorder.dispatch(&AdafactorFactors {
            params: AdafactorFactorsParams {
                block_count: tables.block_count,
                decay_power: (-self.beta2_decay) as f32,
            },
            state,
            blocks: tables.blocks.as_entire_buffer_binding(),
            tensors: segment.tensors.as_entire_buffer_binding(),
            partials: tables.sums.as_entire_buffer_binding(),
            variance: segment.moments[0].as_entire_buffer_binding(),
        });
        tables.record(recorder, &tables.means, &segment.moments[0], RULE_MEAN, 0.0);
    }
}

/// Where everything lies, on the host.
#[derive(Default)]
struct Layout {
    /// By row of the tensor table.
    shapes: Vec<FactoredTensor>,
    tiles: Vec<Tile>,
    blocks: Vec<FactorBlock>,
    /// What the means of the row variances are over: rows, or columns where those are fewer.
    means: Vec<TensorRange>,
    update_factors: Vec<TensorRange>,
    weight_rms: Vec<TensorRange>,
    variance_quads: u32,
    sum_quads: u32,
    factor_count: u32,
}

impl Layout {
    fn new(tensors: &[SegmentTensor<'_>]) -> Self {
        let shapes = vec![FactoredTensor::default(); table_rows(tensors)];
        let mut layout = Self { shapes, ..Self::default() };
        for tensor in tensors {
            layout.add(tensor);
        }
        layout
    }

    /// The next `count` entries of `factors`.
    fn factors(&mut self, count: u32) -> u32 {
        self.factor_count += count;
        self.factor_count - count
    }

    /// The next quads of what is kept.
    fn variance(&mut self, quads: u32) -> u32 {
        self.variance_quads += quads;
        self.variance_quads - quads
    }

    fn add(&mut self, tensor: &SegmentTensor<'_>) {
        let mut shape = FactoredTensor {
            offset: tensor.offset,
            row_quads: to_u32(tensor.spec.shape.row_quads()),
            update_factor: self.factors(1),
            weight_rms: self.factors(1),
            ..FactoredTensor::default()
        };
        self.update_factors.push(chunk_range(tensor, shape.update_factor));
        self.weight_rms.push(chunk_range(tensor, shape.weight_rms));
        if tensor.spec.shape.dims.len() > 1 && tensor.quads() > 0 {
            self.add_matrices(tensor, &mut shape);
        } else {
            shape.variance_cols = self.variance(tensor.quads());
        }
        self.shapes[tensor.index as usize] = shape;
    }

    fn add_matrices(&mut self, tensor: &SegmentTensor<'_>, shape: &mut FactoredTensor) {
        let dims = &tensor.spec.shape.dims;
        let [rows, cols] = [dims[dims.len() - 2], dims[dims.len() - 1]].map(to_u32);
        let all_rows = to_u32(tensor.spec.shape.rows());
        let (matrices, all_row_quads) = (all_rows / rows, all_rows.div_ceil(4));
        shape.rows = rows;
        shape.variance_rows = self.variance(all_row_quads);
        shape.variance_cols = self.variance(matrices * shape.row_quads);
        shape.mean = self.factors(matrices);

        let row_tiles = rows.div_ceil(TILE_ROWS);
        let col_tiles = shape.row_quads.div_ceil(TILE_QUADS);
        let width = shape.row_quads.div_ceil(col_tiles);
        let row_sums = self.sum_quads;
        let col_sums = row_sums + col_tiles * all_row_quads;
        self.sum_quads = col_sums + matrices * row_tiles * shape.row_quads;
        for (matrix, row_tile) in product(matrices, row_tiles) {
            let first = matrix * rows + row_tile * TILE_ROWS;
            for col_tile in 0..col_tiles {
                let col = col_tile * width;
                let row_of_sums = (matrix * row_tiles + row_tile) * shape.row_quads;
                self.tiles.push(Tile {
                    offset: tensor.offset + first * shape.row_quads + col,
                    row_quads: shape.row_quads,
                    rows: (rows - row_tile * TILE_ROWS).min(TILE_ROWS),
                    quads: (shape.row_quads - col).min(width),
                    row_partials: 4 * (row_sums + col_tile * all_row_quads) + first,
                    column_partials: 4 * (col_sums + row_of_sums + col),
                    tensor: tensor.index,
                });
            }
        }
        self.add_blocks(&FactorBlock {
            first: row_sums,
            stride: all_row_quads,
            count: col_tiles,
            quads: all_row_quads,
            target_quad: shape.variance_rows,
            elements: cols,
            tensor: tensor.index,
        });
        for matrix in 0..matrices {
            let target_quad = shape.variance_cols + matrix * shape.row_quads;
            self.add_blocks(&FactorBlock {
                first: col_sums + matrix * row_tiles * shape.row_quads,
                stride: shape.row_quads,
                count: row_tiles,
                quads: shape.row_quads,
                target_quad,
                elements: rows,
                tensor: tensor.index,
            });
            let (first, count, elements) = if rows <= cols {
                (4 * shape.variance_rows + matrix * rows, rows, rows)
            } else {
                (4 * target_quad, cols, cols)
            };
            let target_index = shape.mean + matrix;
            self.means.push(TensorRange { first, count, elements, target_index });
        }
    }

    /// A vector of variances, in blocks.
    fn add_blocks(&mut self, whole: &FactorBlock) {
        for quad in (0..whole.quads).step_by(FACTOR_BLOCK_QUADS as usize) {
            self.blocks.push(FactorBlock {
                first: whole.first + quad,
                quads: (whole.quads - quad).min(FACTOR_BLOCK_QUADS),
                target_quad: whole.target_quad + quad,
                ..*whole
            });
        }
    }
}

/// Rows of the tensor table that these tensors reach.
fn table_rows(tensors: &[SegmentTensor<'_>]) -> usize {
    tensors.iter().map(|tensor| tensor.index as usize + 1).max().unwrap_or(0)
}

/// Every pair below both, the second running fastest.
fn product(first: u32, second: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..first).flat_map(move |a| (0..second).map(move |b| (a, b)))
}

/// Ranges for [`TensorFactors`].
struct Ranges {
    buffer: wgpu::Buffer,
    count: u32,
}

impl Ranges {
    fn new(gpu: &Gpu, ranges: &[TensorRange]) -> Self {
        Self { buffer: gpu.upload("tensor ranges", ranges), count: to_u32(ranges.len()) }
    }
}

/// The layout on the device, and room for what a step works out.
struct Tables {
    shapes: wgpu::Buffer,
    tiles: wgpu::Buffer,
    tile_count: u32,
    blocks: wgpu::Buffer,
    block_count: u32,
    means: Ranges,
    update_factors: Ranges,
    weight_rms: Ranges,
    /// Sums by row and by column of each tile.
    sums: wgpu::Buffer,
    /// (chunks) f32
    squares: wgpu::Buffer,
    factors: wgpu::Buffer,
}

impl Tables {
    fn new(gpu: &Gpu, segment: &Segment<'_>) -> Self {
        let layout = Layout::new(segment.layout);
        Self {
            shapes: gpu.upload("factored tensors", &layout.shapes),
            tiles: gpu.upload("tiles", &layout.tiles),
            tile_count: to_u32(layout.tiles.len()),
            blocks: gpu.upload("factor blocks", &layout.blocks),
            block_count: to_u32(layout.blocks.len()),
            means: Ranges::new(gpu, &layout.means),
            update_factors: Ranges::new(gpu, &layout.update_factors),
            weight_rms: Ranges::new(gpu, &layout.weight_rms),
            sums: gpu.buffer("row and column sums", 16 * u64::from(layout.sum_quads)),
            squares: gpu.buffer("partial sums", 4 * u64::from(segment.chunk_count)),
            factors: gpu.buffer("tensor factors", 4 * u64::from(layout.factor_count)),
        }
    }

    fn record(
        &self,
        recorder: &mut Recorder<'_>,
        ranges: &Ranges,
        partials: &wgpu::Buffer,
        rule: u32,
        bound: f32,
    ) {
        recorder.dispatch(&TensorFactors {
            params: TensorFactorsParams { range_count: ranges.count, rule, bound },
            ranges: ranges.buffer.as_entire_buffer_binding(),
            partials: partials.as_entire_buffer_binding(),
            factors: self.factors.as_entire_buffer_binding(),
        });
    }
}
