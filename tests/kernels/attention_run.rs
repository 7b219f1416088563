//! Attention's kernels over buffers, for the tests: each exists by row and in tiles.

use evenkeel::Gpu;
use evenkeel::kernel::{Declaration, HeadQuads, Kernel, Variant};
use evenkeel::kernels::*;
use evenkeel::reference::attention::Attention as Size;

/// Which of two kernels that compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// A row to an invocation.
    ByRow,
    /// Products of tiles.
    Tiled,
}

impl Kernels {
    pub const ALL: [Self; 2] = [Self::ByRow, Self::Tiled];
}

/// A kernel whose workgroups lie in columns of three, as those of a huge grid lie in several.
struct Folded<K>(K);

impl<K: Kernel> Kernel for Folded<K> {
    const DECLARATION: Declaration = K::DECLARATION;

    fn buffers(&self) -> Vec<wgpu::BufferBinding<'_>> {
        self.0.buffers()
    }

    fn uniform(&self) -> &[u8] {
        self.0.uniform()
    }

    fn overrides(&self) -> Vec<u32> {
        self.0.overrides()
    }

    fn grid(&self, variant: Variant) -> [u32; 3] {
        let [x, y, z] = self.0.grid(variant);
        [3, (x * y * z).div_ceil(3), 1]
    }
}

/// The buffers of one attention, forward and backward.
pub struct Buffers {
    pub qkv: wgpu::Buffer,
    pub output: wgpu::Buffer,
    pub statistics: wgpu::Buffer,
    pub row_logits: wgpu::Buffer,
    pub output_gradient: wgpu::Buffer,
    pub delta: wgpu::Buffer,
    pub qkv_gradient: wgpu::Buffer,
}

/// Parameters, which are the same for all.
fn params(size: &Size) -> AttentionParams {
    AttentionParams {
        batch: size.batch as u32,
        time: size.time as u32,
        heads: size.heads as u32,
        kv_heads: size.kv_heads as u32,
        head_quads: size.head_dim as u32 / 4,
        scale: size.scale as f32,
        soft_cap: size.soft_cap as f32,
        window: size.window as u32,
    }
}

fn fitting(size: &Size) -> HeadQuads {
    HeadQuads::fitting(size.head_dim as u32 / 4)
}

/// The output, and what the backward pass subtracts.
pub fn forward(
    gpu: &Gpu,
    kernels: Kernels,
    size: &Size,
    qkv: &[f32],
    output_gradient: &[f32],
) -> Buffers {
    let statistics = (size.batch * size.heads * size.time * 4) as u64;
    let buffers = Buffers {
        qkv: gpu.upload("qkv", qkv),
        output: gpu.buffer("output", (size.output_len() * 4) as u64),
        statistics: gpu.buffer("statistics", 2 * statistics),
        row_logits: gpu.buffer("row_logits", 2 * statistics),
        output_gradient: gpu.upload("output_gradient", output_gradient),
        delta: gpu.buffer("delta", statistics),
        qkv_gradient: gpu.upload("qkv_gradient", &vec![7.0f32; size.qkv_len()]),
    };
    run_forward(gpu, kernels, size, &buffers, 1);
    let kernel = AttentionDelta {
        params: bytemuck::cast(params(size)),
        output: buffers.output.as_entire_buffer_binding(),
        output_gradient: buffers.output_gradient.as_entire_buffer_binding(),
        delta: buffers.delta.as_entire_buffer_binding(),
    };
    gpu.run_as(&kernel, fitting(size));
    buffers
}

/// The output alone.
pub fn run_forward(gpu: &Gpu, kernels: Kernels, size: &Size, buffers: &Buffers, watch: u32) {
    let [qkv, output, statistics, row_logits] =
        [&buffers.qkv, &buffers.output, &buffers.statistics, &buffers.row_logits]
            .map(wgpu::Buffer::as_entire_buffer_binding);
    let params = params(size);
    if kernels == Kernels::Tiled {
        let params = bytemuck::cast(params);
        let kernel = AttentionTiled { params, watch, qkv, output, statistics, row_logits };
        return gpu.run(&Folded(kernel));
    }
    let kernel = Attention { params, watch, qkv, output, statistics, row_logits };
    gpu.run_as(&kernel, fitting(size));
}

fn backward_bindings(buffers: &Buffers) -> [wgpu::BufferBinding<'_>; 5] {
    let Buffers { qkv, output_gradient, statistics, delta, qkv_gradient, .. } = buffers;
    [qkv, output_gradient, statistics, delta, qkv_gradient]
        .map(wgpu::Buffer::as_entire_buffer_binding)
}

pub fn backward_query(gpu: &Gpu, kernels: Kernels, size: &Size, buffers: &Buffers) {
    let [qkv, output_gradient, statistics, delta, qkv_gradient] = backward_bindings(buffers);
    let params = bytemuck::cast(params(size));
    if kernels == Kernels::Tiled {
        return gpu.run(&Folded(AttentionTiledBackwardQuery {
            params,
            qkv,
            output_gradient,
            statistics,
            delta,
            qkv_gradient,
        }));
    }
    let kernel = AttentionBackwardQuery {
        params: bytemuck::cast(params),
        qkv,
        output_gradient,
        statistics,
        delta,
        qkv_gradient,
    };
    gpu.run_as(&kernel, fitting(size));
}

pub fn backward_key_value(gpu: &Gpu, kernels: Kernels, size: &Size, buffers: &Buffers) {
    let [qkv, output_gradient, statistics, delta, qkv_gradient] = backward_bindings(buffers);
    let params = bytemuck::cast(params(size));
    if kernels == Kernels::Tiled {
        return gpu.run(&Folded(AttentionTiledBackwardKeyValue {
            params,
            qkv,
            output_gradient,
            statistics,
            delta,
            qkv_gradient,
        }));
    }
    let kernel = AttentionBackwardKeyValue {
        params: bytemuck::cast(params),
        qkv,
        output_gradient,
        statistics,
        delta,
        qkv_gradient,
    };
    gpu.run_as(&kernel, fitting(size));
}
