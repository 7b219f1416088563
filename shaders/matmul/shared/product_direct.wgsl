// One 64 x 64 tile of C per workgroup without workgroup memory: each invocation reads the quads
// that its 8 x 8 elements need. Faster where shaders run on a CPU, whose caches do the sharing.
// Other fragments say what the totals begin with, and how many terms a partial sum has.
const INVOCATIONS = 64u;

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

fn multiply(tile: u32, lane: u32) {
    let tile_cols = (params.cols + 63u) / 64u;
    let tiles = tile_cols * ((params.rows + 63u) / 64u);
    let z = tile / tiles;
    if z < params.batch {
        let outer = z / params.inner_count;
        let inner = z % params.inner_count;
        let row = tile % tiles / tile_cols * 16u + lane / 8u * 2u;
        let col = tile % tiles % tile_cols * 16u + lane % 8u * 2u;
        let origin_a0 = a_origin(outer, inner, row);
        let origin_a1 = a_origin(outer, inner, row + 1u);
        let origin_b0 = b_origin(outer, inner, col);
        let origin_b1 = b_origin(outer, inner, col + 1u);
        let inner_quads = (params.inner + 3u) / 4u;
        let first = params.c_offset + outer * params.c_outer_stride
            + inner * params.c_inner_stride;
        var c00 = opening(first, row, col);
        var c01 = opening(first, row, col + 1u);
        var c10 = opening(first, row + 1u, col);
        var c11 = opening(first, row + 1u, col + 1u);
        for (var begin = 0u; begin < inner_quads; begin += PARTIAL_QUADS) {
            var s00 = mat4x4<f32>();
            var s01 = mat4x4<f32>();
            var s10 = mat4x4<f32>();
            var s11 = mat4x4<f32>();
            for (var k = begin; k < min(begin + PARTIAL_QUADS, inner_quads); k++) {
                let b0 = b_block(origin_b0, k);
                let b1 = b_block(origin_b1, k);
                let a0 = a_block(origin_a0, k);
                s00 = add_product(s00, a0, b0);
                s01 = add_product(s01, a0, b1);
                let a1 = a_block(origin_a1, k);
                s10 = add_product(s10, a1, b0);
                s11 = add_product(s11, a1, b1);
            }
            c00 += s00;
            c01 += s01;
            c10 += s10;
            c11 += s11;
        }
        var rows = array<vec4<f32>, 16>(
            c00[0], c00[1], c00[2], c00[3],
            c01[0], c01[1], c01[2], c01[3],
            c10[0], c10[1], c10[2], c10[3],
            c11[0], c11[1], c11[2], c11[3],
        );
        for (var i = 0u; i < 16u; i++) {
            store_row(first, 4u * (row + i / 8u) + i % 4u, col + i / 4u % 2u, rows[i]);
        }
    }
}
