//! Products over f16 by cooperative matrices, beside the same products without them.

use evenkeel::Precision;
use evenkeel::kernel::Variant;
use evenkeel::kernels::*;

use crate::bench::{Family, bind};
use crate::halves::halves;
use crate::matmul::{GPU_SIZES, SIZES};

/// The largest, at which what a workgroup has to load costs least.
const LARGEST: (u32, u32, u32) = (4096, 4096, 4096);

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
        let (a, b) = (halves(family.gpu, rows * inner), halves(family.gpu, inner * cols));
        let (c, spare) = (halves(family.gpu, 2 * rows * cols), halves(family.gpu, 4 * cols));
        for (name, variant) in &variants {
            let size = format!("{rows} x {cols} x {inner}, {name}");
            let params = MatmulParams::dense(rows, cols, inner);
            let kernel = Matmul::plain(params, [&a, &b, &c].map(bind));
            family.multiplies_as(*variant, &size, &kernel);
            let params = MatmulTransposedAParams::dense(rows, cols, inner);
            let kernel = MatmulTransposedA { params, a: bind(&a), b: bind(&b), c: bind(&c) };
            family.multiplies_as(*variant, &size, &kernel);
            let kernel = MatmulTransposedB {
                params: MatmulTransposedBParams::dense(rows, cols, inner),
                activation: 0,
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
