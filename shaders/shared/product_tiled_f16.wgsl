// One 64 x 64 tile of C per workgroup as in shared/product_tiled.wgsl, with tiles and products in
// f16: for values that are stored in f16 anyway, on devices that multiply it faster. Sums of 16
// products are f16, which loses about as much as storing the operands did; sums of those are f32.
const TILE_PITCH = 17u; // 16 quads and one, so that transposed stores meet fewer bank conflicts
var<workgroup> tile_a: array<vec4<f16>, 272>; // (16 inner, 64 rows)
var<workgroup> tile_b: array<vec4<f16>, 272>; // (16 inner, 64 cols)

// Products of four rows with four columns, added up over one step of `inner`.
struct Block { r0: vec4<f16>, r1: vec4<f16>, r2: vec4<f16>, r3: vec4<f16> }

fn add_outer(c: Block, a: vec4<f16>, b: vec4<f16>) -> Block {
    return Block(
        fma(a.xxxx, b, c.r0),
        fma(a.yyyy, b, c.r1),
        fma(a.zzzz, b, c.r2),
        fma(a.wwww, b, c.r3),
    );
}

fn add_block(c: mat4x4<f32>, block: Block) -> mat4x4<f32> {
    return mat4x4(
        c[0] + vec4<f32>(block.r0),
        c[1] + vec4<f32>(block.r1),
        c[2] + vec4<f32>(block.r2),
        c[3] + vec4<f32>(block.r3),
    );
}

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
        var c00 = mat4x4<f32>();
        var c01 = mat4x4<f32>();
        var c10 = mat4x4<f32>();
        var c11 = mat4x4<f32>();
        for (var k = 0u; k < inner_quads; k += 4u) {
            var block_a = mat4x4<f32>();
            var block_b = mat4x4<f32>();
            if k + lane % 4u < inner_quads {
                block_a = transpose(a_block(origin_a, k + lane % 4u));
                block_b = b_block(origin_b, k + lane % 4u);
            }
            let at = lane % 4u * 4u * TILE_PITCH + lane / 4u;
            tile_a[at] = vec4<f16>(block_a[0]);
            tile_a[at + TILE_PITCH] = vec4<f16>(block_a[1]);
            tile_a[at + 2u * TILE_PITCH] = vec4<f16>(block_a[2]);
            tile_a[at + 3u * TILE_PITCH] = vec4<f16>(block_a[3]);
            tile_b[at] = vec4<f16>(block_b[0]);
            tile_b[at + TILE_PITCH] = vec4<f16>(block_b[1]);
            tile_b[at + 2u * TILE_PITCH] = vec4<f16>(block_b[2]);
            tile_b[at + 3u * TILE_PITCH] = vec4<f16>(block_b[3]);
            workgroupBarrier();
            var h00 = Block();
            var h01 = Block();
            var h10 = Block();
            var h11 = Block();
            for (var i = 0u; i < 16u * TILE_PITCH; i += TILE_PITCH) {
                let a0 = tile_a[i + lane / 8u];
                let a1 = tile_a[i + lane / 8u + 8u];
                let b0 = tile_b[i + lane % 8u];
                let b1 = tile_b[i + lane % 8u + 8u];
                h00 = add_outer(h00, a0, b0);
                h01 = add_outer(h01, a0, b1);
                h10 = add_outer(h10, a1, b0);
                h11 = add_outer(h11, a1, b1);
            }
            c00 = add_block(c00, h00);
            c01 = add_block(c01, h01);
            c10 = add_block(c10, h10);
            c11 = add_block(c11, h11);
            workgroupBarrier();
        }
        let first = params.c_offset + outer * params.c_outer_stride
            + inner * params.c_inner_stride;
        let row_quad = row + lane / 8u;
        store_blocks(first, row_quad, col + lane % 8u, 8u, c00, c01, c10, c11);
    }
}
