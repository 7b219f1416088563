// One tile of C per workgroup, 16 elements of `inner` at a time through workgroup memory. Each
// invocation owns ROW_BLOCKS x COL_BLOCKS blocks of 4 x 4 elements: matrix columns are rows of C.
// Other fragments give the tile, Term, what is multiplied, Sum, what a step of `inner` adds up to,
// what the totals begin with, and how many terms a partial sum has. The order of the sums is the same for all tiles.

// Four quads of `inner`, A's (16 inner, rows) and then B's (16 inner, cols). Within a row the quads
// are permuted, so that neither stores nor loads meet in a bank: see `swizzled`.
var<workgroup> tiles: array<Term, 32u * TILE_QUADS>;

// Quads of rows, and of columns, from one block of an invocation to the next.
const ROW_DISTANCE = TILE_QUADS / ROW_BLOCKS;
const COL_DISTANCE = TILE_QUADS / COL_BLOCKS;

// Of the blocks of an invocation: the upper left one, that on its right, and those below the two.
struct Sums { left: Sum, right: Sum, lower_left: Sum, lower_right: Sum }

// Where a quad of rows or columns lies in the four rows of quad k of `inner`.
fn swizzled(quad: u32, k: u32) -> u32 { return 4u * k * TILE_QUADS + (quad ^ (2u * k)); }

fn add_element(sums: Sums, at_a: u32, at_b: u32) -> Sums {
    let a = tiles[at_a];
    var next = sums;
    next.left = add_outer(sums.left, a, tiles[at_b]);
    if COL_BLOCKS > 1u { next.right = add_outer(sums.right, a, tiles[at_b + COL_DISTANCE]); }
    if ROW_BLOCKS > 1u {
        let lower = tiles[at_a + ROW_DISTANCE];
        next.lower_left = add_outer(sums.lower_left, lower, tiles[at_b]);
        next.lower_right = add_outer(sums.lower_right, lower, tiles[at_b + COL_DISTANCE]);
    }
    return next;
}

// Written out, four elements of `inner` at a time: a loop around one costs GPUs a third of their speed.
fn add_quad(sums: Sums, k: u32, row_quad: u32, col_quad: u32) -> Sums {
    let a = swizzled(row_quad, k);
    let b = 16u * TILE_QUADS + swizzled(col_quad, k);
    var next = add_element(sums, a, b);
    next = add_element(next, a + TILE_QUADS, b + TILE_QUADS);
    next = add_element(next, a + 2u * TILE_QUADS, b + 2u * TILE_QUADS);
    return add_element(next, a + 3u * TILE_QUADS, b + 3u * TILE_QUADS);
}

fn multiply(tile: u32, lane: u32) {
    let tile_cols = (params.cols + 4u * TILE_QUADS - 1u) / (4u * TILE_QUADS);
    let tiles_of_one = tile_cols * ((params.rows + 4u * TILE_QUADS - 1u) / (4u * TILE_QUADS));
    let z = tile / tiles_of_one;
    if z < params.batch {
        let outer = z / params.inner_count;
        let inner = z % params.inner_count;
        let row = tile % tiles_of_one / tile_cols * TILE_QUADS;
        let col = tile % tiles_of_one % tile_cols * TILE_QUADS;

        // Half of the invocations load A and half B, one block of 4 x 4 each. Neighbours load what
        // lies side by side.
        let loads_a = lane < INVOCATIONS / 2u;
        let block = lane % (INVOCATIONS / 2u);
        let along_inner = select(B_ALONG_INNER, A_ALONG_INNER, loads_a);
        let block_quad = select(block % TILE_QUADS, block / 4u, along_inner);
        let block_k = select(block / TILE_QUADS, block % 4u, along_inner);
        let at = select(16u * TILE_QUADS, 0u, loads_a) + swizzled(block_quad, block_k);
        var origin = vec4<u32>();
        if loads_a {
            origin = a_origin(outer, inner, row + block_quad);
        } else {
            origin = b_origin(outer, inner, col + block_quad);
        }

        let inner_quads = (params.inner + 3u) / 4u;
        let first = params.c_offset + outer * params.c_outer_stride
            + inner * params.c_inner_stride;
        let row_quad = lane / COL_DISTANCE;
        let col_quad = lane % COL_DISTANCE;
        let c_row = row + row_quad;
        let c_col = col + col_quad;
        var left = opening(first, c_row, c_col);
        var right = mat4x4<f32>();
        var lower_left = mat4x4<f32>();
        var lower_right = mat4x4<f32>();
        if COL_BLOCKS > 1u { right = opening(first, c_row, c_col + COL_DISTANCE); }
        if ROW_BLOCKS > 1u {
            lower_left = opening(first, c_row + ROW_DISTANCE, c_col);
            lower_right = opening(first, c_row + ROW_DISTANCE, c_col + COL_DISTANCE);
        }
        for (var begin = 0u; begin < inner_quads; begin += PARTIAL_QUADS) {
            var partial_left = mat4x4<f32>();
            var partial_right = mat4x4<f32>();
            var partial_lower_left = mat4x4<f32>();
            var partial_lower_right = mat4x4<f32>();
            for (var k = begin; k < min(begin + PARTIAL_QUADS, inner_quads); k += 4u) {
                var terms = mat4x4<f32>();
                if k + block_k < inner_quads {
                    if loads_a {
                        terms = transpose(a_block(origin, k + block_k));
                    } else {
                        terms = b_block(origin, k + block_k);
                    }
                }
                tiles[at] = Term(terms[0]);
                tiles[at + TILE_QUADS] = Term(terms[1]);
                tiles[at + 2u * TILE_QUADS] = Term(terms[2]);
                tiles[at + 3u * TILE_QUADS] = Term(terms[3]);
                workgroupBarrier();
                var sums = Sums(
                    open_sum(partial_left),
                    open_sum(partial_right),
                    open_sum(partial_lower_left),
                    open_sum(partial_lower_right),
                );
                sums = add_quad(sums, 0u, row_quad, col_quad);
                sums = add_quad(sums, 1u, row_quad, col_quad);
                sums = add_quad(sums, 2u, row_quad, col_quad);
                sums = add_quad(sums, 3u, row_quad, col_quad);
                partial_left = close_sum(partial_left, sums.left);
                if COL_BLOCKS > 1u { partial_right = close_sum(partial_right, sums.right); }
                if ROW_BLOCKS > 1u {
                    partial_lower_left = close_sum(partial_lower_left, sums.lower_left);
                    partial_lower_right = close_sum(partial_lower_right, sums.lower_right);
                }
                workgroupBarrier();
            }
            left += partial_left;
            if COL_BLOCKS > 1u { right += partial_right; }
            if ROW_BLOCKS > 1u {
                lower_left += partial_lower_left;
                lower_right += partial_lower_right;
            }
        }

        var rows = array<vec4<f32>, 16>(
            left[0], left[1], left[2], left[3],
            right[0], right[1], right[2], right[3],
            lower_left[0], lower_left[1], lower_left[2], lower_left[3],
            lower_right[0], lower_right[1], lower_right[2], lower_right[3],
        );
        for (var i = 0u; i < 4u * ROW_BLOCKS * COL_BLOCKS; i++) {
            let below = i / (4u * COL_BLOCKS) * ROW_DISTANCE;
            let beside = i / 4u % COL_BLOCKS * COL_DISTANCE;
            store_row(first, 4u * (c_row + below) + i % 4u, c_col + beside, rows[i]);
        }
    }
}
