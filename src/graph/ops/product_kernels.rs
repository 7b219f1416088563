//! Which kernels make a matrix product: in registers only on software drivers, through workgroup
//! memory on GPUs, there in tiles of the size that suits the matrix.

use super::gradient_products::Derivative;
use crate::kernel::ProductTile;
use crate::kernels::{
    Activation, ColumnSum, ColumnSumParams, Matmul, MatmulDirect, MatmulParams, MatmulResumed,
    MatmulResumedDirect, MatmulResumedParams, MatmulTransposedA, MatmulTransposedADirect,
    MatmulTransposedAParams, MatmulTransposedB, MatmulTransposedBDirect, MatmulTransposedBFew,
    MatmulTransposedBParams,
};
use crate::record::{Machine, Recorder, Slot, to_u32};

/// Compiles a product for a B in blocks, which is one whole matrix, or in quads.
fn set_blocks(recorder: &mut Recorder<'_>, b: &Slot, batch: u32, offset: u32) {
    let blocks = b.shape.block_format();
    assert!(blocks.is_none() || batch == 1 && offset == 0, "blocks are a whole matrix");
    recorder.set_blocks(blocks);
}

/// The activation whose gradient a product A·B ends with, whether it is that of a gate, and where its
/// argument lies: for kernels, that of nothing where there is none.
fn end(derivative: Option<Derivative<'_>>, unused: &Slot) -> (u32, u32, Slot) {
    match derivative {
        Some(Derivative { gradient, argument }) => {
            (gradient.kind as u32, u32::from(gradient.gated), argument.clone())
        }
        None => (0, 0, unused.clone()),
    }
}

pub(super) fn record_ab(
    recorder: &mut Recorder<'_>,
    params: MatmulParams,
    [a, b, c]: [&Slot; 3],
    derivative: Option<Derivative<'_>>,
) {
    set_blocks(recorder, b, params.batch, params.b_offset);
    recorder.set_product_size(params.rows, params.cols, params.inner, params.batch);
    let (activation, gated, argument) = end(derivative, a);
    let [a, b, pre_activation, c] = [a, b, &argument, c].map(Slot::binding);
    if !recorder.tiled_products() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulDirect { params, activation, gated, a, b, pre_activation, c });
    } else {
        recorder.dispatch(&Matmul { params, activation, gated, a, b, pre_activation, c });
    }
}

/// Bytes of the sums that go on from one dispatch to the next.
pub(super) fn resumed_scratch(quads: usize) -> u64 {
    16 * quads as u64
}

/// Records one of several dispatches of [`record_ab`] whose sums go on from one to the next.
pub(super) fn record_resumed(
    recorder: &mut Recorder<'_>,
    params: MatmulResumedParams,
    [a, b, c]: [&Slot; 3],
    derivative: Option<Derivative<'_>>,
) {
    set_blocks(recorder, b, params.batch, params.b_offset);
    let sums = recorder.scratch(resumed_scratch(c.shape.quads()));
    recorder.set_product_size(params.rows, params.cols, params.inner, params.batch);
    let (activation, gated, argument) = end(derivative, a);
    let [a, b, pre_activation, c] = [a, b, &argument, c].map(Slot::binding);
    let sums = sums.as_entire_buffer_binding();
    if !recorder.tiled_products() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulResumedDirect {
            params,
            activation,
            gated,
            a,
            b,
            pre_activation,
            sums,
            c,
        });
    } else {
        recorder.dispatch(&MatmulResumed {
            params,
            activation,
            gated,
            a,
            b,
            pre_activation,
            sums,
            c,
        });
    }
}

/// Aᵀ·B, on a GPU as several products and their sum where C alone has too few tiles for it.
pub(super) fn record_at_b(
    recorder: &mut Recorder<'_>,
    params: MatmulTransposedAParams,
    [a, b, c]: [&Slot; 3],
) {
    let splits = chosen_splits(recorder.machine(), &params, c.shape.quads());
    recorder.set_product_size(params.rows, params.cols, params.inner, params.batch);
    let [a_whole, b_whole, c_whole] = [a, b, c].map(Slot::binding);
    if !recorder.tiled_products() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulTransposedADirect { params, a: a_whole, b: b_whole, c: c_whole });
    } else if splits > 1 {
        record_split_at_b(recorder, params, splits, [a, b, c]);
    } else {
        recorder.dispatch(&MatmulTransposedA { params, a: a_whole, b: b_whole, c: c_whole });
    }
}

/// Into how many products Aᵀ·B is divided, 1 for none, for a C of so many quads.
fn chosen_splits(machine: Machine, params: &MatmulTransposedAParams, quads: usize) -> u32 {
    let splits = splits(params);
    let fits = partial_bytes(splits, quads) <= machine.largest_binding;
    if machine.tiled_products && fits { splits } else { 1 }
}

fn partial_bytes(splits: u32, quads: usize) -> u64 {
    16 * u64::from(splits) * quads as u64
}

/// Bytes of scratch that [`record_at_b`] takes for a C of so many quads.
pub(super) fn at_b_scratch(
    machine: Machine,
    params: &MatmulTransposedAParams,
    quads: usize,
) -> u64 {
    match chosen_splits(machine, params, quads) {
        1 => 0,
        splits => partial_bytes(splits, quads),
    }
}

/// Into how many sums, each over a part of `inner`, a GPU should split those of Aᵀ·B: a weight's
/// gradient is a small matrix whose sums are over all rows of a batch, and where it has few tiles,
/// most processors would have none.
fn splits(params: &MatmulTransposedAParams) -> u32 {
    let tiles = ProductTile::Of64.count(params.rows, params.cols, params.batch);
    let is_even = |splits: &u32| params.inner.is_multiple_of(*splits);
    let long_enough = |splits: &u32| params.inner / splits >= SHORTEST_SPLIT;
    let powers = std::iter::successors(Some(1), |splits| Some(2 * splits));
    let possible = powers.take_while(|splits| is_even(splits) && long_enough(splits));
    let last = possible.take_while(|splits| splits / 2 * tiles < ENOUGH_TILES).last();
    if params.batch == 1 { last.unwrap_or(1) } else { 1 }
}

/// So many tiles of 64 x 64 keep all of a GPU busy: measured on one of 132 processors. Not by what a
/// device was found to be, since the order of sums follows from it.
const ENOUGH_TILES: u32 = 192;
/// Below so many terms, adding up the parts costs more than it saves.
const SHORTEST_SPLIT: u32 = 64;

/// Aᵀ·B as one product for each part of `inner`, and their sum.
fn record_split_at_b(
    recorder: &mut Recorder<'_>,
    params: MatmulTransposedAParams,
    batch: u32,
    [a, b, c]: [&Slot; 3],
) {
    let quads = to_u32(c.shape.quads());
    let inner = params.inner / batch;
    let partials = recorder.scratch(partial_bytes(batch, c.shape.quads()));
    let [a, b, c_whole] = [a, b, c].map(Slot::binding);
    let params = MatmulTransposedAParams {
        inner,
        batch,
        accumulate: 0,
        a_outer_stride: inner * params.a_row_stride,
        b_outer_stride: inner * params.b_row_stride,
        c_outer_stride: quads,
        ..params
    };
    let partials = partials.as_entire_buffer_binding();
    recorder.set_product_size(params.rows, params.cols, inner, batch);
    recorder.dispatch(&MatmulTransposedA { params, a, b, c: partials.clone() });
    let accumulate = u32::from(c.accumulate);
    let params = ColumnSumParams { blocks: batch, col_quads: quads, accumulate };
    recorder.dispatch(&ColumnSum { params, partials, y: c_whole });
}

/// Up to so many rows of A, a GPU multiplies with Bᵀ by reading it once: it has nothing else to do.
const FEW_ROWS: u32 = 4;

pub(super) fn record_ab_t(
    recorder: &mut Recorder<'_>,
    params: MatmulTransposedBParams,
    activation: Activation,
    [a, b, bias, c, pre_activation]: [&Slot; 5],
) {
    set_blocks(recorder, b, params.batch, params.b_offset);
    recorder.set_product_size(params.rows, params.cols, params.inner, params.batch);
    let [a, b, bias, c] = [a, b, bias, c].map(Slot::binding);
    let (activation, pre_activation) = (activation as u32, pre_activation.binding());
    if !recorder.tiled_products() {
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
    } else if params.rows <= FEW_ROWS && !recorder.gpu().is_software() {
        let params = bytemuck::cast(params);
        recorder.dispatch(&MatmulTransposedBFew {
            params,
            activation,
            a,
            b,
            bias,
            c,
            pre_activation,
        });
    } else {
        recorder.dispatch(&MatmulTransposedB { params, activation, a, b, bias, c, pre_activation });
    }
}
