use evenkeel::kernels::*;

use crate::bench::{Family, Shape, bind};

/// (rows, cols, inner)
const SIZES: [(u32, u32, u32); 3] = [(512, 512, 512), (512, 512, 128), (512, 128, 512)];

/// One product at one size, with buffers that its dense form fills.
macro_rules! product {
    ($family:ident, $size:ident, $Kernel:ident, $Params:ident, $a:ident, $b:ident $(, $more:ident)*) => {{
        let (rows, cols, inner) = $size;
        let [a] = $family.tensors(Shape { rows: $a.0, cols: $a.1 });
        let [b] = $family.tensors(Shape { rows: $b.0, cols: $b.1 });
        let [c] = $family.tensors(Shape { rows, cols });
        $(let $more = $family.vector(cols);)*
        let flops = 2 * u64::from(rows) * u64::from(cols) * u64::from(inner);
        let kernel = $Kernel {
            params: $Params::dense(rows, cols, inner),
            a: bind(&a),
            b: bind(&b),
            c: bind(&c),
            $($more: bind(&$more),)*
        };
        $family.computes(format_args!("{rows} x {cols} x {inner}"), flops, &kernel);
    }};
}

pub fn run(family: &mut Family<'_>) {
    for size in SIZES {
        let (rows, cols, inner) = size;
        let (plain_a, transposed_a) = ((rows, inner), (inner, rows));
        let (plain_b, transposed_b) = ((inner, cols), (cols, inner));
        product!(family, size, Matmul, MatmulParams, plain_a, plain_b);
        product!(family, size, MatmulDirect, MatmulDirectParams, plain_a, plain_b);
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
            bias,
            pre_activation
        );
        product!(
            family,
            size,
            MatmulTransposedBDirect,
            MatmulTransposedBDirectParams,
            plain_a,
            transposed_b,
            bias,
            pre_activation
        );
    }
}
