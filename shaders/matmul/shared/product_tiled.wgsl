// One 64 x 64 tile of C per workgroup, 16 elements of `inner` at a time through workgroup memory.
// Each invocation owns 8 x 8 elements as four blocks: matrix columns are rows of C. Another
// fragment gives Term, what is multiplied, and Sum, what a step of `inner` adds up to; one more says
// what the sums begin with.
const TILE_PITCH = 17u; // 16 quads and one, so that transposed stores meet fewer bank conflicts
var<workgroup> tile_a: array<Term, 272>; // (16 inner, 64 rows)
var<workgroup> tile_b: array<Term, 272>; // (16 inner, 64 cols)

fn multiply(tile: u32, lane: u32) {
    let tile_cols = (params.cols + 63u) / 64u;
    let tiles = tile_cols * ((params.rows + 63u) / 64u);
    let z = tile / tiles;
    if z < params.batch {
        let outer = z / params.inner_count;
        let inner = z % params.inner_count;
        let row = tile % tiles / tile_cols * 16u;
        let col = tile % tiles % tile_cols * 16u;
        let origin_a = a_origin(outer, inner, row + lane / 4u);
        let origin_b = b_origin(outer, inner, col + lane / 4u);
        let inner_quads = (params.inner + 3u) / 4u;
        let first = params.c_offset + outer * params.c_outer_stride
            + inner * params.c_inner_stride;
        let row_quad = row + lane / 8u;
        let col_quad = col + lane % 8u;
        var c00 = opening(first, row_quad, col_quad);
        var c01 = opening(first, row_quad, col_quad + 8u);
        var c10 = opening(first, row_quad + 8u, col_quad);
        var c11 = opening(first, row_quad + 8u, col_quad + 8u);
        for (var k = 0u; k < inner_quads; k += 4u) {
            var block_a = mat4x4<f32>();
            var block_b = mat4x4<f32>();
            if k + lane % 4u < inner_quads {
                block_a = transpose(a_block(origin_a, k + lane % 4u));
                block_b = b_block(origin_b, k + lane % 4u);
            }
            let at = lane % 4u * 4u * TILE_PITCH + lane / 4u;
            tile_a[at] = Term(block_a[0]);
            tile_a[at + TILE_PITCH] = Term(block_a[1]);
            tile_a[at + 2u * TILE_PITCH] = Term(block_a[2]);
            tile_a[at + 3u * TILE_PITCH] = Term(block_a[3]);
            tile_b[at] = Term(block_b[0]);
            tile_b[at + TILE_PITCH] = Term(block_b[1]);
            tile_b[at + 2u * TILE_PITCH] = Term(block_b[2]);
            tile_b[at + 3u * TILE_PITCH] = Term(block_b[3]);
            workgroupBarrier();
            var s00 = open_sum(c00);
            var s01 = open_sum(c01);
            var s10 = open_sum(c10);
            var s11 = open_sum(c11);
            for (var i = 0u; i < 16u * TILE_PITCH; i += TILE_PITCH) {
                let a0 = tile_a[i + lane / 8u];
                let a1 = tile_a[i + lane / 8u + 8u];
                let b0 = tile_b[i + lane % 8u];
                let b1 = tile_b[i + lane % 8u + 8u];
                s00 = add_outer(s00, a0, b0);
                s01 = add_outer(s01, a0, b1);
                s10 = add_outer(s10, a1, b0);
                s11 = add_outer(s11, a1, b1);
            }
            c00 = close_sum(c00, s00);
            c01 = close_sum(c01, s01);
            c10 = close_sum(c10, s10);
            c11 = close_sum(c11, s11);
            workgroupBarrier();
        }
        store_blocks(first, row_quad, col_quad, 8u, c00, c01, c10, c11);
    }
}
