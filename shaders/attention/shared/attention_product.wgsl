// Products of 64 rows with 64 columns through workgroup memory, 8 quads of terms at a time, by 128
// invocations: invocation (x, y) of 16 x 8 owns rows y, y + 8, .. y + 56 and column quad x. The
// last index of each array is folded with the first, so that neighbours meet different banks. Arrays
// are nested, so that most checks of bounds stay outside of what is repeated; loops go on by two, since
// each turn costs, but so does every line in the time that drivers take to compile.
const TERMS = 8u; // quads of terms
const COLUMN_QUADS = 16u;

var<workgroup> left: array<array<array<vec4<f32>, 8>, 8>, 8>; // term k of row 8 i + y: [k][i][y ^ k]
// Term k of column 4 x + j, or terms 4 k + j of column quad x: [k][j][x ^ k].
var<workgroup> right: array<array<array<vec4<f32>, 16>, 4>, 8>;

// A quad of each of an invocation's rows, y + 8 i for i of 0 to 3 and of 4 to 7.
struct Rows {
    upper: mat4x4<f32>,
    lower: mat4x4<f32>,
}

fn blocks() -> u32 { return (params.time + BLOCK - 1u) / BLOCK; }

// How many workgroups share the columns of a head, 64 each.
fn parts() -> u32 { return (head_quads() + COLUMN_QUADS - 1u) / COLUMN_QUADS; }

// Positions of the upper rows; the lower ones are 32 further on.
fn upper_rows(first: u32, y: u32) -> vec4<u32> { return first + y + vec4(0u, 8u, 16u, 24u); }

// Quad d of position t of what begins at `at`; zero where there is none.
fn qkv_quad(at: u32, t: u32, d: u32) -> vec4<f32> {
    let exists = t < params.time && d < head_quads();
    let quad = min(t, params.time - 1u) * qkv_row(0u, 1u) + min(d, head_quads() - 1u);
    return select(vec4(0.0), unpack(qkv[at + quad]), exists);
}

// Quad d of positions t, t + step, t + 2 step, t + 3 step of what begins at `at`.
fn qkv_quads(at: u32, t: u32, step: u32, d: u32) -> mat4x4<f32> {
    return mat4x4(
        qkv_quad(at, t, d),
        qkv_quad(at, t + step, d),
        qkv_quad(at, t + 2u * step, d),
        qkv_quad(at, t + 3u * step, d),
    );
}

// Places of rows lane / 8 + 16 n, quad lane % 8, for n of 0 to 3.
fn put_left(lane: u32, quads: mat4x4<f32>) {
    let k = lane % 8u;
    let i = lane / 64u;
    let z = (lane / 8u % 8u) ^ k;
    left[k][i][z] = quads[0];
    left[k][i + 2u][z] = quads[1];
    left[k][i + 4u][z] = quads[2];
    left[k][i + 6u][z] = quads[3];
}
fn put_right(lane: u32, quads: mat4x4<f32>) {
    let k = lane % 8u;
    let j = lane / 8u % 4u;
    let x = lane / 32u;
    right[k][j][x ^ k] = quads[0];
    right[k][j][(x + 4u) ^ k] = quads[1];
    right[k][j][(x + 8u) ^ k] = quads[2];
    right[k][j][(x + 12u) ^ k] = quads[3];
}
// Places of rows lane / 16 + 8 n, quad lane % 16.
fn put_terms(lane: u32, quads: mat4x4<f32>) {
    let k = lane / 64u;
    let j = lane / 16u % 4u;
    let x = lane % 16u;
    right[k][j][x ^ k] = quads[0];
    right[k + 2u][j][x ^ (k + 2u)] = quads[1];
    right[k + 4u][j][x ^ (k + 4u)] = quads[2];
    right[k + 6u][j][x ^ (k + 6u)] = quads[3];
}
// Quad x % 8 of an invocation's rows.
fn put_rows(x: u32, y: u32, rows: Rows) {
    let k = x % 8u;
    let z = y ^ k;
    left[k][0][z] = rows.upper[0];
    left[k][1][z] = rows.upper[1];
    left[k][2][z] = rows.upper[2];
    left[k][3][z] = rows.upper[3];
    left[k][4][z] = rows.lower[0];
    left[k][5][z] = rows.lower[1];
    left[k][6][z] = rows.lower[2];
    left[k][7][z] = rows.lower[3];
}

// 64 positions from t on, 8 quads from d on.
fn left_of_qkv(lane: u32, at: u32, t: u32, d: u32) {
    put_left(lane, qkv_quads(at, t + lane / 8u, 16u, d + lane % 8u));
}
fn right_of_qkv(lane: u32, at: u32, t: u32, d: u32) {
    put_right(lane, qkv_quads(at, t + lane / 8u, 16u, d + lane % 8u));
}
// 32 positions from t on, 16 quads from d on.
fn terms_of_qkv(lane: u32, at: u32, t: u32, d: u32) {
    put_terms(lane, qkv_quads(at, t + lane / 16u, 8u, d + lane % 16u));
}

fn left_upper(k: u32, y: u32) -> mat4x4<f32> {
    let z = y ^ k;
    return mat4x4(left[k][0][z], left[k][1][z], left[k][2][z], left[k][3][z]);
}
fn left_lower(k: u32, y: u32) -> mat4x4<f32> {
    let z = y ^ k;
    return mat4x4(left[k][4][z], left[k][5][z], left[k][6][z], left[k][7][z]);
}
fn right_block(k: u32, x: u32) -> mat4x4<f32> {
    let z = x ^ k;
    return mat4x4(right[k][0][z], right[k][1][z], right[k][2][z], right[k][3][z]);
}

fn add_row(c: vec4<f32>, a: vec4<f32>, b: mat4x4<f32>) -> vec4<f32> {
    return fma(a.wwww, b[3], fma(a.zzzz, b[2], fma(a.yyyy, b[1], fma(a.xxxx, b[0], c))));
}
fn add_block(c: mat4x4<f32>, a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4(
        add_row(c[0], a[0], b),
        add_row(c[1], a[1], b),
        add_row(c[2], a[2], b),
        add_row(c[3], a[3], b),
    );
}
fn add_rows(c: Rows, k: u32, y: u32, b: mat4x4<f32>) -> Rows {
    return Rows(add_block(c.upper, left_upper(k, y), b), add_block(c.lower, left_lower(k, y), b));
}

// Adds dot products of rows and columns in workgroup memory, over so many quads.
fn add_dots(c: Rows, quads: u32, x: u32, y: u32) -> Rows {
    let end = min(quads, TERMS);
    var sums = c;
    for (var k = 0u; k < end; k += 2u) {
        sums = add_rows(sums, k, y, transpose(right_block(k, x)));
        sums = add_rows(sums, k + 1u, y, transpose(right_block(k + 1u, x)));
    }
    return sums;
}
// Adds the terms in workgroup memory that so many positions are left for, each times its weight in
// every row. Were the number of turns a constant, some drivers would write them all out.
fn add_terms(c: Rows, positions: u32, x: u32, y: u32) -> Rows {
    let end = min(positions, 4u * TERMS);
    var sums = c;
    for (var k = 0u; 4u * k < end; k += 2u) {
        sums = add_rows(sums, k, y, right_block(k, x));
        sums = add_rows(sums, k + 1u, y, right_block(k + 1u, x));
    }
    return sums;
}

// Dot products of 64 positions from s on with 64 from t on, of what begins at `a` and `b`.
fn qkv_dots(lane: u32, a: u32, s: u32, b: u32, t: u32) -> Rows {
    let quads = head_quads();
    var sums = Rows();
    for (var d = 0u; d < quads; d += TERMS) {
        left_of_qkv(lane, a, s, d);
        right_of_qkv(lane, b, t, d);
        workgroupBarrier();
        sums = add_dots(sums, quads - d, lane % 16u, lane / 16u);
        workgroupBarrier();
    }
    return sums;
}
