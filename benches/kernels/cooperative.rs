//! Products over f16 by cooperative matrices, beside the same products without them.

use evenkeel::Precision;
use evenkeel::kernel::Variant;
use evenkeel::kernels::*;

use crate::bench::{Family, bind};
use crate::matmul::{GPU_SIZES, SIZES};

/// The largest, at which what a workgroup has to load costs least.
const LARGEST: (u32, u32, u32) = (4096, 4096, 4096);

/// Halves in [-1, 1).
fn halves(family: &Family<'_>, count: u32) -> wgpu::Buffer {
    let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let numbers: Vec<_> = (0..count).map(number).collect();
    family.gpu.upload("halves", &Precision::F16.encode(&numbers))
}

/// On a device that goes by cooperative matrices, those; on another, what it does without.
pub fn run(family: &mut Family<'_>) {
    let plain = Variant::from(Precision::F16);
    let native = Variant { native_f16: true, ..plain };
    let variants = match family.gpu.cooperative_matrices().of(Precision::F16) {
        Some(matrix) => vec![(format!("cooperative {matrix}"), plain)],
        None if family.gpu.device.features().contains(native.features()) => {
            vec![("f16".to_owned(), plain), ("native f16".to_owned(), native)]
        }
        None => vec![("f16".to_owned(), plain)],
    };
    let large = if family.gpu.is_software() { &[][..] } else { &GPU_SIZES };
    let largest = if family.gpu.is_software() { None } else { Some(&LARGEST) };
    for &(rows, cols, inner) in SIZES.iter().chain(large).chain(largest) {
        let (a, b) = (halves(family, rows * inner), halves(family, inner * cols));
        let (c, spare) = (halves(family, 2 * rows * cols), halves(family, 4 * cols));
        for (name, variant) in &variants {
            let size = format!("{rows} x {cols} x {inner}, {name}");
            let params = MatmulParams::dense(rows, cols, inner);
            let kernel = Matmul { params, a: bind(&a), b: bind(&b), c: bind(&c) };
            family.multiplies_as(*variant, &size, &kernel);
            let params = MatmulTransposedAParams::dense(rows, cols, inner);
            let kernel = MatmulTransposedA { params, a: bind(&a), b: bind(&b), c: bind(&c) };
            family.multiplies_as(*variant, &size, &kernel);
            let kernel = MatmulTransposedB {
                params: MatmulTransposedBParams::dense(rows, cols, inner),
                a: bind(&a),
                b: bind(&b),
                bias: bind(&b),
                c: bind(&c),
                pre_activation: bind(&spare),
            };
            family.multiplies_as(*variant, &size, &kernel);
        }
    }
}
