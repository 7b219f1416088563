// One tile of C per workgroup by cooperative matrices, 32 elements of `inner` at a time through
// workgroup memory. The tile is 4 x 4 matrices of UNIT x UNIT; a subgroup multiplies a block of 2 x 2
// of them, so that four subgroups take a turn. Where a workgroup has fewer, there are several turns,
// where it has more, the others only load: any size of subgroups is right, and 32 has one turn.
// Another fragment gives the matrices, others what the totals begin with, and how many terms a
// partial sum has. Partial sums leave the matrices through workgroup memory: there are no additions of
// matrices in Metal.
const INVOCATIONS = 128u;
const TILE_QUADS = UNIT; // of rows, and of columns
const STEP_QUADS = 8u; // of `inner`
const BLOCKS = 4u;
const BLOCK = 2u * UNIT; // rows, and columns
const LOAD_QUADS = 64u / TILE_QUADS; // of `inner`, which 64 invocations load at once
const A_STRIDE = 4u * STEP_QUADS + PAD;
const B_STRIDE = 4u * TILE_QUADS + PAD;
const B_BEGIN = 4u * TILE_QUADS * A_STRIDE;
const BAND_STRIDE = 4u * TILE_QUADS + 4u;
const BAND_ROWS = INVOCATIONS / TILE_QUADS; // of which all invocations have a quad each

// A's (rows, 32 inner) and then B's (32 inner, cols), each row padded.
var<workgroup> tiles: array<Stored, (B_BEGIN + 4u * STEP_QUADS * B_STRIDE) / WIDTH>;
// UNIT rows of the tile, on their way from the matrices to invocations.
var<workgroup> band: array<f32, UNIT * BAND_STRIDE>;

// What an invocation keeps of a band: a quad, and where there are more rows another, BAND_ROWS below.
struct Share { upper: vec4<f32>, lower: vec4<f32> }

fn opening_row(first: u32, row: u32, quad: u32) -> vec4<f32> {
    var rows = opening(first, row / 4u, quad);
    return rows[row % 4u];
}

// Of the band that begins at `row`, by the place of this invocation in it.
fn opening_share(first: u32, row: u32, quad: u32) -> Share {
    return Share(opening_row(first, row, quad), opening_row(first, row + BAND_ROWS, quad));
}

fn band_quad(row: u32, quad: u32) -> vec4<f32> {
    let at = row * BAND_STRIDE + 4u * quad;
    return vec4(band[at], band[at + 1u], band[at + 2u], band[at + 3u]);
}

// Four products of matrices at k of `inner`, for the block whose operands begin at `at_a` and `at_b`.
fn add_products(
    at_a: u32,
    at_b: u32,
    k: u32,
    c00: ptr<function, MatrixC>,
    c01: ptr<function, MatrixC>,
    c10: ptr<function, MatrixC>,
    c11: ptr<function, MatrixC>,
) {
    let a = at_a + k;
    let b = at_b + k * B_STRIDE;
    let a0 = coopLoadT<MatrixA>(&tiles[a / WIDTH], A_STRIDE / WIDTH);
    let a1 = coopLoadT<MatrixA>(&tiles[(a + UNIT * A_STRIDE) / WIDTH], A_STRIDE / WIDTH);
    let b0 = coopLoadT<MatrixB>(&tiles[b / WIDTH], B_STRIDE / WIDTH);
    let b1 = coopLoadT<MatrixB>(&tiles[(b + UNIT) / WIDTH], B_STRIDE / WIDTH);
    *c00 = coopMultiplyAdd(a0, b0, *c00);
    *c01 = coopMultiplyAdd(a0, b1, *c01);
    *c10 = coopMultiplyAdd(a1, b0, *c10);
    *c11 = coopMultiplyAdd(a1, b1, *c11);
}

// Adds what the matrices of a band hold to what invocations keep of it. `is_mine` says whether this
// subgroup has some of it, two matrices from column `col`.
fn add_band(total: Share, lane: u32, is_mine: bool, col: u32, left: MatrixC, right: MatrixC) -> Share {
    if is_mine {
        coopStoreT(left, &band[col], BAND_STRIDE);
        coopStoreT(right, &band[col + UNIT], BAND_STRIDE);
    }
    workgroupBarrier();
    let row = lane / TILE_QUADS;
    let quad = lane % TILE_QUADS;
    var next = total;
    if row < UNIT { next.upper += band_quad(row, quad); }
    if BAND_ROWS < UNIT { next.lower += band_quad(row + BAND_ROWS, quad); }
    workgroupBarrier();
    return next;
}

fn multiply(tile: u32, lane: u32) {
    let tile_cols = (params.cols + 4u * TILE_QUADS - 1u) / (4u * TILE_QUADS);
    let tiles_of_one = tile_cols * ((params.rows + 4u * TILE_QUADS - 1u) / (4u * TILE_QUADS));
    let z = tile / tiles_of_one;
    if z < params.batch {
        let outer = z / params.inner_count;
        let inner = z % params.inner_count;
        let row = tile % tiles_of_one / tile_cols * 4u * TILE_QUADS;
        let col = tile % tiles_of_one % tile_cols * TILE_QUADS;

        // Half of the invocations load A and half B, one block of 4 x 4 at a time. Neighbours load
        // what lies side by side.
        let loads_a = lane < 64u;
        let load = lane % 64u;
        let along_inner = select(B_ALONG_INNER, A_ALONG_INNER, loads_a);
        let load_quad = select(load % TILE_QUADS, load / LOAD_QUADS, along_inner);
        let load_k = select(load / TILE_QUADS, load % LOAD_QUADS, along_inner);
        let at_a = 4u * (load_quad * A_STRIDE + load_k);
        let at_b = B_BEGIN + 4u * (load_k * B_STRIDE + load_quad);
        let at = select(at_b, at_a, loads_a);
        let stride = select(B_STRIDE, A_STRIDE, loads_a);
        let next_load = 4u * LOAD_QUADS * select(B_STRIDE, 1u, loads_a);
        var origin = vec4<u32>();
        if loads_a {
            origin = a_origin(outer, inner, row / 4u + load_quad);
        } else {
            origin = b_origin(outer, inner, col + load_quad);
        }

        let inner_quads = (params.inner + 3u) / 4u;
        let first = params.c_offset + outer * params.c_outer_stride
            + inner * params.c_inner_stride;
        let my_row = row + lane / TILE_QUADS;
        let my_quad = col + lane % TILE_QUADS;
        let subgroup_size = subgroupAdd(1u);
        let subgroups = INVOCATIONS / subgroup_size;
        for (var turn = 0u; turn < BLOCKS; turn += subgroups) {
            let block = turn + subgroupMin(lane) / subgroup_size;
            let upper = block / 2u == 0u;
            let lower = block / 2u == 1u;
            let block_col = block % 2u * BLOCK;
            let products_a = block / 2u * BLOCK * A_STRIDE;
            let products_b = B_BEGIN + block_col;
            var total0 = opening_share(first, my_row, my_quad);
            var total1 = opening_share(first, my_row + UNIT, my_quad);
            var total2 = opening_share(first, my_row + 2u * UNIT, my_quad);
            var total3 = opening_share(first, my_row + 3u * UNIT, my_quad);
            for (var begin = 0u; begin < inner_quads; begin += PARTIAL_QUADS) {
                var c00 = MatrixC();
                var c01 = MatrixC();
                var c10 = MatrixC();
                var c11 = MatrixC();
                for (var k = begin; k < min(begin + PARTIAL_QUADS, inner_quads); k += STEP_QUADS) {
                    for (var more = 0u; more < STEP_QUADS; more += LOAD_QUADS) {
                        let quad = k + more + load_k;
                        var terms = mat4x4<f32>();
                        if quad < inner_quads {
                            if loads_a {
                                terms = a_block(origin, quad);
                            } else {
                                terms = b_block(origin, quad);
                            }
                        }
                        let to = at + more / LOAD_QUADS * next_load;
                        put(to, terms[0]);
                        put(to + stride, terms[1]);
                        put(to + 2u * stride, terms[2]);
                        put(to + 3u * stride, terms[3]);
                    }
                    workgroupBarrier();
                    if block < BLOCKS {
                        add_products(products_a, products_b, 0u, &c00, &c01, &c10, &c11);
                        add_products(products_a, products_b, UNIT, &c00, &c01, &c10, &c11);
                        if UNIT < 16u {
                            add_products(products_a, products_b, 2u * UNIT, &c00, &c01, &c10, &c11);
                            add_products(products_a, products_b, 3u * UNIT, &c00, &c01, &c10, &c11);
                        }
                    }
                    workgroupBarrier();
                }
                total0 = add_band(total0, lane, upper, block_col, c00, c01);
                total1 = add_band(total1, lane, upper, block_col, c10, c11);
                total2 = add_band(total2, lane, lower, block_col, c00, c01);
                total3 = add_band(total3, lane, lower, block_col, c10, c11);
            }

            var kept = array<vec4<f32>, 8>(
                total0.upper, total0.lower, total1.upper, total1.lower,
                total2.upper, total2.lower, total3.upper, total3.lower,
            );
            for (var i = 0u; i < 8u; i++) {
                let band_row = lane / TILE_QUADS + i % 2u * BAND_ROWS;
                let of_block = i / 4u * 2u + lane % TILE_QUADS / (TILE_QUADS / 2u);
                if band_row < UNIT && of_block >= turn && of_block < turn + subgroups {
                    store_row(first, row + i / 2u * UNIT + band_row, my_quad, kept[i]);
                }
            }
        }
    }
}
