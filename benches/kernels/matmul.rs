use evenkeel::kernel::{BlockFormat, Kernel, ProductTile};
use evenkeel::kernels::*;
use evenkeel::{Gpu, Precision};

use crate::bench::{Family, Shape, bind};

/// (rows, cols, inner)
pub const SIZES: [(u32, u32, u32); 3] = [(512, 512, 512), (512, 512, 128), (512, 128, 512)];
/// Those of a GPT of 124 M parameters, batch 8 and context 256, which take software drivers seconds.
pub const GPU_SIZES: [(u32, u32, u32); 4] =
    [(2048, 2048, 2048), (2048, 768, 768), (2048, 3072, 768), (768, 768, 2048)];

/// A matrix in blocks, of numbers in [-1, 1).
pub fn blocks(gpu: &Gpu, format: BlockFormat, (rows, cols): (u32, u32)) -> wgpu::Buffer {
    let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let numbers: Vec<_> = (0..rows * cols).map(number).collect();
    gpu.upload("blocks", &format.split(&format.encode(&numbers)).concat())
}

/// One product at one size, with buffers that its dense form fills.
macro_rules! product {
    ($family:ident, $size:ident, $Kernel:ident, $Params:ident, $a:ident, $b:ident $(, $more:ident $cols:expr)* $(; $($constant:ident)+)?) => {{
        let (rows, cols, inner) = $size;
        let [a] = $family.tensors(Shape { rows: $a.0, cols: $a.1 });
        let [b] = $family.tensors(Shape { rows: $b.0, cols: $b.1 });
        let [c] = $family.tensors(Shape { rows, cols });
        $(let $more = $family.vector($cols);)*
        let kernel = $Kernel {
            params: $Params::dense(rows, cols, inner),
            $($($constant: 0,)+)?
            a: bind(&a),
            b: bind(&b),
            c: bind(&c),
            $($more: bind(&$more),)*
        };
        for variant in $Kernel::DECLARATION.variants() {
            let is_device_choice = {
                variant.subgroups_of_8
                    || variant.words_of_64
                    || variant.large_register_tiles
                    || variant.cooperative.is_some()
                    || variant.half_conversions.loads
            };
            if variant.precision == Precision::F32 && !is_device_choice {
                let tile = match variant.product_tile {
                    ProductTile::Of64 => "",
                    ProductTile::Of128 => ", tiles of 128",
                    ProductTile::Of32 => ", tiles of 32",
                };
                let format = variant.blocks.map(|f| format!(", {f}")).unwrap_or_default();
                let size = format_args!("{rows} x {cols} x {inner}{tile}{format}");
                let in_blocks = variant.blocks.map(|f| blocks($family.gpu, f, $b));
                let b = bind(in_blocks.as_ref().unwrap_or(&b));
                $family.multiplies_as(variant, size, &$Kernel { b, ..kernel.clone() });
            }
        }
    }};
}

/// What software drivers take, at the size that peers are measured at.
const SOFTWARE_SIZE: (u32, u32, u32) = (1024, 1024, 1024);

pub fn run(family: &mut Family<'_>) {
    if family.gpu.is_software() {
        let (rows, cols, inner) = SOFTWARE_SIZE;
        let (a, b) = ((rows, inner), (inner, cols));
        product!(
            family,
            SOFTWARE_SIZE,
            MatmulDirect,
            MatmulDirectParams,
            a,
            b,
            pre_activation cols;
            activation gated
        );
    }
    let large = if family.gpu.is_software() { &[][..] } else { &GPU_SIZES };
    for &size in SIZES.iter().chain(large) {
        let (rows, cols, inner) = size;
        let (plain_a, transposed_a) = ((rows, inner), (inner, rows));
        let (plain_b, transposed_b) = ((inner, cols), (cols, inner));
        product!(family, size, Matmul, MatmulParams, plain_a, plain_b, pre_activation cols; activation gated);
        product!(
            family,
            size,
            MatmulDirect,
            MatmulDirectParams,
            plain_a,
            plain_b,
            pre_activation cols;
            activation gated
        );
        let all = rows * cols;
        product!(
            family,
            size,
            MatmulResumed,
            MatmulResumedParams,
            plain_a,
            plain_b,
            pre_activation cols,
            sums all;
            activation gated
        );
        product!(
            family,
            size,
            MatmulResumedDirect,
            MatmulResumedDirectParams,
            plain_a,
            plain_b,
            pre_activation cols,
            sums all;
            activation gated
        );
        product!(family, size, MatmulTransposedA, MatmulTransposedAParams, transposed_a, plain_b);
        product!(
            family,
            size,
            MatmulTransposedADirect,
            MatmulTransposedADirectParams,
            transposed_a,
            plain_b
        );
        product!(
            family,
            size,
            MatmulTransposedB,
            MatmulTransposedBParams,
            plain_a,
            transposed_b,
            bias cols,
            pre_activation cols;
            activation
        );
        let (few, few_a) = ((1, cols, inner), (1, inner));
        product!(
            family,
            few,
            MatmulTransposedBFew,
            MatmulTransposedBFewParams,
            few_a,
            transposed_b,
            bias cols,
            pre_activation cols;
            activation
        );
        product!(
            family,
            size,
            MatmulTransposedBDirect,
            MatmulTransposedBDirectParams,
            plain_a,
            transposed_b,
            bias cols,
            pre_activation cols;
            activation
        );
    }
}
