// One 64 x 32 tile of C per workgroup without workgroup memory: each invocation reads the quads that
// its 16 x 16 elements need. For drivers where a number that is loaded costs as much as ten products
// of it. The order of sums is that of product_direct.wgsl.
// Other fragments say what the totals begin with, and how many terms a partial sum has.
const INVOCATIONS = 8u;

// Of each of four rows, four quads side by side.
struct Strip {
    q0: mat4x4<f32>,
    q1: mat4x4<f32>,
    q2: mat4x4<f32>,
    q3: mat4x4<f32>,
}

fn add_row(c: vec4<f32>, a: vec4<f32>, b: mat4x4<f32>) -> vec4<f32> {
    return fma(a.wwww, b[3], fma(a.zzzz, b[2], fma(a.yyyy, b[1], fma(a.xxxx, b[0], c))));
}

fn add_product(c: mat4x4<f32>, a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        add_row(c[0], a[0], b),
        add_row(c[1], a[1], b),
        add_row(c[2], a[2], b),
        add_row(c[3], a[3], b),
    );
}

fn add_products(c: Strip, a: mat4x4<f32>, b: Strip) -> Strip {
    return Strip(
        add_product(c.q0, a, b.q0),
        add_product(c.q1, a, b.q1),
        add_product(c.q2, a, b.q2),
        add_product(c.q3, a, b.q3),
    );
}

fn multiply(tile: u32, lane: u32) {
    let tile_cols = (params.cols + 31u) / 32u;
    let tiles = tile_cols * ((params.rows + 63u) / 64u);
    let z = tile / tiles;
    if z < params.batch {
        let outer = z / params.inner_count;
        let inner = z % params.inner_count;
        let row = tile % tiles / tile_cols * 16u + lane / 2u * 4u;
        let col = tile % tiles % tile_cols * 8u + lane % 2u * 4u;
        let a0 = a_origin(outer, inner, row);
        let a1 = a_origin(outer, inner, row + 1u);
        let a2 = a_origin(outer, inner, row + 2u);
        let a3 = a_origin(outer, inner, row + 3u);
        let b0 = b_origin(outer, inner, col);
        let b1 = b_origin(outer, inner, col + 1u);
        let b2 = b_origin(outer, inner, col + 2u);
        let b3 = b_origin(outer, inner, col + 3u);
        let inner_quads = (params.inner + 3u) / 4u;
        let first = params.c_offset + outer * params.c_outer_stride
            + inner * params.c_inner_stride;
        var totals: array<mat4x4<f32>, 16>;
        for (var m = 0u; m < 16u; m++) {
            totals[m] = opening(first, row + m / 4u, col + m % 4u);
        }
        for (var begin = 0u; begin < inner_quads; begin += PARTIAL_QUADS) {
            var s0 = Strip();
            var s1 = Strip();
            var s2 = Strip();
            var s3 = Strip();
            for (var k = begin; k < min(begin + PARTIAL_QUADS, inner_quads); k++) {
                let b = Strip(b_block(b0, k), b_block(b1, k), b_block(b2, k), b_block(b3, k));
                s0 = add_products(s0, a_block(a0, k), b);
                s1 = add_products(s1, a_block(a1, k), b);
                s2 = add_products(s2, a_block(a2, k), b);
                s3 = add_products(s3, a_block(a3, k), b);
            }
            // In a loop, so that the text around it is compiled once.
            var sums = array<mat4x4<f32>, 16>(
                s0.q0, s0.q1, s0.q2, s0.q3,
                s1.q0, s1.q1, s1.q2, s1.q3,
                s2.q0, s2.q1, s2.q2, s2.q3,
                s3.q0, s3.q1, s3.q2, s3.q3,
            );
            for (var m = 0u; m < 16u; m++) { totals[m] += sums[m]; }
        }
        for (var m = 0u; m < 16u; m++) {
            var rows = totals[m];
            for (var i = 0u; i < 4u; i++) {
                store_row(first, 4u * (row + m / 4u) + i, col + m % 4u, rows[i]);
            }
        }
    }
}
