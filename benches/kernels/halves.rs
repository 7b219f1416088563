//! Kernels over f16 by integers and by the device's own conversions, where those were admitted: a cast
//! each way, a sum, a product, attention and weights in blocks.

use evenkeel::kernel::{BlockFormat, HalfConversions, Variant};
use evenkeel::kernels::*;
use evenkeel::{Gpu, Precision};

use crate::attention;
use crate::bench::{Family, SHAPES, Shape, bind};
use crate::matmul::{SIZES, blocks};

/// Halves in [-1, 1).
pub fn halves(gpu: &Gpu, count: u32) -> wgpu::Buffer {
    let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let numbers: Vec<_> = (0..count).map(number).collect();
    gpu.upload("halves", &Precision::F16.encode(&numbers))
}

/// On a device that was not asked for them, integers; on one that was, what it was found to do.
pub fn run(family: &mut Family<'_>) {
    let HalfConversions { loads, stores } = family.gpu.half_conversions().admitted;
    let way = match (loads, stores) {
        (false, false) => "f16 by integers",
        (true, false) => "f16 read by the device",
        (false, true) => "f16 written by the device",
        (true, true) => "f16 by the device",
    };
    casts(family, SHAPES[1], way);
    product(family, way);
    weights_in_blocks(family, way);
    attention::over_halves(family, way);
}

fn casts(family: &mut Family<'_>, shape: Shape, way: &str) {
    let (quads, size) = (shape.quads(), format!("{shape}, {way}"));
    let [single] = family.tensors(shape);
    let [a, b, y] = [(); 3].map(|()| halves(family.gpu, 4 * quads));
    let bytes = single.size() / 2 * 3;
    let [single, a, b, y] = [&single, &a, &b, &y].map(bind);
    let params = CastFromF32Params { quads };
    let kernel = CastFromF32 { params, x: single.clone(), y: y.clone() };
    family.moves_as(Precision::F16, &size, bytes, &kernel);
    let params = CastToF32Params { quads };
    let kernel = CastToF32 { params, x: a.clone(), y: single };
    family.moves_as(Precision::F16, &size, bytes, &kernel);
    let kernel = Add { params: AddParams { quads }, a, b, y };
    family.moves_as(Precision::F16, &size, 3 * 8 * u64::from(quads), &kernel);
}

fn product(family: &mut Family<'_>, way: &str) {
    let (rows, cols, inner) = SIZES[0];
    let size = format!("{rows} x {cols} x {inner}, {way}");
    let [a, b, c] = [rows * inner, inner * cols, rows * cols].map(|n| halves(family.gpu, n));
    let [a, b, c] = [&a, &b, &c].map(bind);
    if family.gpu.is_software() {
        let params = MatmulDirectParams::dense(rows, cols, inner);
        family.multiplies_as(Precision::F16, &size, &MatmulDirect::plain(params, [a, b, c]));
    } else {
        let params = MatmulParams::dense(rows, cols, inner);
        family.multiplies_as(Precision::F16, &size, &Matmul::plain(params, [a, b, c]));
    }
}

/// A row of logits of values in f32, where the scales alone are f16: what a generated token takes.
fn weights_in_blocks(family: &mut Family<'_>, way: &str) {
    let (cols, inner) = (4096, 1024);
    let format = BlockFormat::Q4_0;
    let size = format!("1 x {cols} x {inner}, {format}, {way}");
    let (a, bias, spare) = (family.vector(inner), family.vector(cols), family.vector(cols));
    let (b, c) = (blocks(family.gpu, format, (cols, inner)), family.vector(cols));
    let kernel = MatmulTransposedBFew {
        params: MatmulTransposedBFewParams::dense(1, cols, inner),
        activation: 0,
        a: bind(&a),
        b: bind(&b),
        bias: bind(&bias),
        c: bind(&c),
        pre_activation: bind(&spare),
    };
    let variant = Variant { blocks: Some(format), ..Variant::default() };
    family.multiplies_as(variant, &size, &kernel);
}
