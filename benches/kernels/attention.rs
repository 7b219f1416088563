use std::fmt;

use evenkeel::Precision;
use evenkeel::kernel::{HeadQuads, Variant};
use evenkeel::kernels::*;

use crate::bench::{Family, Shape, bind};
use crate::halves::halves;

const BATCH: u32 = 8;

/// A size of the kernels of online attention.
#[derive(Clone, Copy)]
struct Size {
    time: u32,
    heads: u32,
    head_dim: u32,
    window: u32,
}

/// The third is that of a GPT of 124 million parameters, the last the same within a window.
const SIZES: [Size; 4] = [
    Size { time: 64, heads: 4, head_dim: 32, window: 64 },
    Size { time: 256, heads: 4, head_dim: 32, window: 256 },
    Size { time: 256, heads: 12, head_dim: 64, window: 256 },
    Size { time: 256, heads: 12, head_dim: 64, window: 64 },
];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BATCH} x {}, {} heads of {}", self.time, self.heads, self.head_dim)?;
        if self.window < self.time { write!(f, ", window {}", self.window) } else { Ok(()) }
    }
}

impl Size {
    /// The parameters, the same for all kernels.
    fn params(self) -> AttentionParams {
        AttentionParams {
            batch: BATCH,
            time: self.time,
            heads: self.heads,
            kv_heads: self.heads,
            head_quads: self.head_dim / 4,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            soft_cap: 0.0,
            window: self.window,
        }
    }

    /// Operations of one product: two per element of a head and pair of a position with itself
    /// and those before it that it sees.
    fn product(self) -> u64 {
        let triangle = |n: u32| u64::from(n) * u64::from(n + 1) / 2;
        let pairs = triangle(self.time) - triangle(self.time - self.window);
        2 * u64::from(BATCH * self.heads * self.head_dim) * pairs
    }
}

pub fn run(family: &mut Family<'_>) {
    for size in SIZES {
        online(family, size);
    }
    for time in [64, 256] {
        causal_softmax(family, time);
    }
}

/// Counts the products that a kernel makes: with a row to an invocation and in tiles.
fn online(family: &mut Family<'_>, size: Size) {
    let (rows, width) = (BATCH * size.time, size.heads * size.head_dim);
    let heads = HeadQuads::fitting(size.head_dim / 4);
    let (params, product) = (size.params(), size.product());
    let [qkv, qkv_gradient] = family.tensors(Shape { rows, cols: 3 * width });
    let [output, output_gradient] = family.tensors(Shape { rows, cols: width });
    let [statistics, delta] = [2, 1].map(|numbers| family.vector(numbers * rows * size.heads));
    let row_logits = family.vector(2 * rows * size.heads);
    let row_logits = bind(&row_logits);
    let [qkv, qkv_gradient, output, output_gradient, statistics, delta] =
        [&qkv, &qkv_gradient, &output, &output_gradient, &statistics, &delta].map(bind);
    let forward = Attention {
        params,
        qkv: qkv.clone(),
        output: output.clone(),
        statistics: statistics.clone(),
        watch: 0,
        row_logits: row_logits.clone(),
    };
    family.gpu.run_as(&forward, heads);
    family.computes_as(heads, size, 2 * product, &forward);
    let watching = Attention { watch: 1, ..forward };
    family.computes_as(heads, format!("{size}, watched"), 2 * product, &watching);
    let tiled = AttentionTiled {
        params: bytemuck::cast(params),
        qkv: qkv.clone(),
        output: output.clone(),
        statistics: statistics.clone(),
        watch: 0,
        row_logits,
    };
    family.computes(size, 2 * product, &tiled);
    let watching = AttentionTiled { watch: 1, ..tiled };
    family.computes(format!("{size}, watched"), 2 * product, &watching);
    let subtracted = AttentionDelta {
        params: bytemuck::cast(params),
        output,
        output_gradient: output_gradient.clone(),
        delta: delta.clone(),
    };
    family.gpu.run(&subtracted);
    family.moves_its_buffers(size, &subtracted);
    let backward = AttentionBackwardQuery {
        params: bytemuck::cast(params),
        qkv: qkv.clone(),
        output_gradient: output_gradient.clone(),
        statistics: statistics.clone(),
        delta: delta.clone(),
        qkv_gradient: qkv_gradient.clone(),
    };
    family.computes_as(heads, size, 3 * product, &backward);
    let tiled = AttentionTiledBackwardQuery {
        params: bytemuck::cast(params),
        qkv: qkv.clone(),
        output_gradient: output_gradient.clone(),
        statistics: statistics.clone(),
        delta: delta.clone(),
        qkv_gradient: qkv_gradient.clone(),
    };
    family.computes(size, 3 * product, &tiled);
    let backward = AttentionBackwardKeyValue {
        params: bytemuck::cast(params),
        qkv: qkv.clone(),
        output_gradient: output_gradient.clone(),
        statistics: statistics.clone(),
        delta: delta.clone(),
        qkv_gradient: qkv_gradient.clone(),
    };
    family.computes_as(heads, size, 4 * product, &backward);
    let tiled = AttentionTiledBackwardKeyValue {
        params: bytemuck::cast(params),
        qkv,
        output_gradient,
        statistics,
        delta,
        qkv_gradient,
    };
    family.computes(size, 4 * product, &tiled);
}

/// Over halves, forward and the gradient of queries: with a row to an invocation on software drivers, in
/// tiles on GPUs.
pub fn over_halves(family: &mut Family<'_>, way: &str) {
    let size = SIZES[1];
    let name = format!("{size}, {way}");
    let (rows, width) = (BATCH * size.time, size.heads * size.head_dim);
    let heads = HeadQuads::fitting(size.head_dim / 4);
    let variant = Variant { precision: Precision::F16, ..heads.into() };
    let (params, product) = (size.params(), size.product());
    let [qkv, qkv_gradient] = [(); 2].map(|()| halves(family.gpu, 3 * rows * width));
    let [output, output_gradient] = [(); 2].map(|()| halves(family.gpu, rows * width));
    let [statistics, delta] = [2, 1].map(|numbers| family.vector(numbers * rows * size.heads));
    let row_logits = family.vector(2 * rows * size.heads);
    let [qkv, qkv_gradient, output, output_gradient, statistics, delta, row_logits] =
        [&qkv, &qkv_gradient, &output, &output_gradient, &statistics, &delta, &row_logits]
            .map(bind);
    macro_rules! measured {
        ($Forward:ident, $Backward:ident) => {{
            let forward = $Forward {
                params: bytemuck::cast(params),
                qkv: qkv.clone(),
                output,
                statistics: statistics.clone(),
                watch: 0,
                row_logits,
            };
            family.gpu.run_as(&forward, variant);
            family.computes_as(variant, &name, 2 * product, &forward);
            let backward = $Backward {
                params: bytemuck::cast(params),
                qkv,
                output_gradient,
                statistics,
                delta,
                qkv_gradient,
            };
            family.computes_as(variant, &name, 3 * product, &backward);
        }};
    }
    if family.gpu.is_software() {
        measured!(Attention, AttentionBackwardQuery);
    } else {
        measured!(AttentionTiled, AttentionTiledBackwardQuery);
    }
}

/// The scores of 4 heads of 32. Half of them are never read.
fn causal_softmax(family: &mut Family<'_>, time: u32) {
    let shape = Shape { rows: BATCH * 4 * time, cols: time };
    let [scores, probabilities] = family.tensors(shape);
    let params = CausalSoftmaxParams { rows: shape.rows, time, scale: 0.176_776_7, soft_cap: 0.0 };
    let bytes = scores.size() / 2 + probabilities.size();
    let [scores, probabilities] = [&scores, &probabilities].map(bind);
    family.moves(shape, bytes, &CausalSoftmax { params, scores, probabilities });
}
