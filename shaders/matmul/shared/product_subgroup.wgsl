// One 32 x 32 tile of C per workgroup, which is one subgroup of 8 invocations: each quad is loaded by
// one of them, and the quads of A are spread to the others by broadcasts. For drivers that run
// subgroups on the vector units of a CPU, where a load costs as much as 50 broadcasts. Each
// invocation owns one quad of columns. Other fragments say what the totals begin with, and
// how many terms a partial sum has.
const INVOCATIONS = 8u;

// Row 4 j + i of the tile is r<j> of the i-th Sums.
struct Sums {
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
    r4: vec4<f32>,
    r5: vec4<f32>,
    r6: vec4<f32>,
    r7: vec4<f32>,
}

fn add_row(c: vec4<f32>, a: vec4<f32>, b: mat4x4<f32>) -> vec4<f32> {
    return fma(a.wwww, b[3], fma(a.zzzz, b[2], fma(a.yyyy, b[1], fma(a.xxxx, b[0], c))));
}

fn add_rows(sums: Sums, a: vec4<f32>, b: mat4x4<f32>) -> Sums {
    return Sums(
        add_row(sums.r0, subgroupBroadcast(a, 0u), b),
        add_row(sums.r1, subgroupBroadcast(a, 1u), b),
        add_row(sums.r2, subgroupBroadcast(a, 2u), b),
        add_row(sums.r3, subgroupBroadcast(a, 3u), b),
        add_row(sums.r4, subgroupBroadcast(a, 4u), b),
        add_row(sums.r5, subgroupBroadcast(a, 5u), b),
        add_row(sums.r6, subgroupBroadcast(a, 6u), b),
        add_row(sums.r7, subgroupBroadcast(a, 7u), b),
    );
}

fn multiply(tile: u32, lane: u32) {
    let tile_cols = (params.cols + 31u) / 32u;
    let tiles = tile_cols * ((params.rows + 31u) / 32u);
    let z = tile / tiles;
    if z < params.batch {
        let outer = z / params.inner_count;
        let inner = z % params.inner_count;
        let row = tile % tiles / tile_cols * 32u;
        let quad = tile % tiles % tile_cols * 8u + lane;
        let origin_a = a_origin(outer, inner, row / 4u + lane);
        let origin_b = b_origin(outer, inner, quad);
        let inner_quads = (params.inner + 3u) / 4u;
        let first = params.c_offset + outer * params.c_outer_stride
            + inner * params.c_inner_stride;
        var totals = array<mat4x4<f32>, 8>();
        for (var j = 0u; j < 8u; j++) { totals[j] = opening(first, row / 4u + j, quad); }
        for (var begin = 0u; begin < inner_quads; begin += PARTIAL_QUADS) {
            var s0 = Sums();
            var s1 = Sums();
            var s2 = Sums();
            var s3 = Sums();
            for (var k = begin; k < min(begin + PARTIAL_QUADS, inner_quads); k++) {
                let a = a_block(origin_a, k); // this invocation's four rows
                let b = b_block(origin_b, k); // four rows of B, this invocation's quad of columns
                s0 = add_rows(s0, a[0], b);
                s1 = add_rows(s1, a[1], b);
                s2 = add_rows(s2, a[2], b);
                s3 = add_rows(s3, a[3], b);
            }
            totals[0] += mat4x4(s0.r0, s1.r0, s2.r0, s3.r0);
            totals[1] += mat4x4(s0.r1, s1.r1, s2.r1, s3.r1);
            totals[2] += mat4x4(s0.r2, s1.r2, s2.r2, s3.r2);
            totals[3] += mat4x4(s0.r3, s1.r3, s2.r3, s3.r3);
            totals[4] += mat4x4(s0.r4, s1.r4, s2.r4, s3.r4);
            totals[5] += mat4x4(s0.r5, s1.r5, s2.r5, s3.r5);
            totals[6] += mat4x4(s0.r6, s1.r6, s2.r6, s3.r6);
            totals[7] += mat4x4(s0.r7, s1.r7, s2.r7, s3.r7);
        }
        for (var i = 0u; i < min(32u, params.rows - row); i++) {
            store_row(first, row + i, quad, totals[i / 4u][i % 4u]);
        }
    }
}
