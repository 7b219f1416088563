// What column_sum.wgsl does, with the same bits, for four partial sums of as many blocks: the tiles of
// a, then those of b, c and d.
struct ColumnSumsParams {
    blocks: u32,
    accumulate: u32,
    a_quads: u32,
    b_quads: u32,
    c_quads: u32,
    d_quads: u32,
}

@group(0) @binding(0) var<uniform> params: ColumnSumsParams;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // (blocks, cols), each with its own
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> c: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> d: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> a_sum: array<vec4<f32>>; // (cols)
@group(0) @binding(6) var<storage, read_write> b_sum: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> c_sum: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> d_sum: array<vec4<f32>>;

fn quads_of(which: u32) -> u32 {
    switch which {
        case 0u: { return params.a_quads; }
        case 1u: { return params.b_quads; }
        case 2u: { return params.c_quads; }
        default: { return params.d_quads; }
    }
}

fn partial(which: u32, i: u32) -> vec4<f32> {
    switch which {
        case 0u: { return a[i]; }
        case 1u: { return b[i]; }
        case 2u: { return c[i]; }
        default: { return d[i]; }
    }
}

fn before(which: u32, quad: u32) -> vec4<f32> {
    switch which {
        case 0u: { return a_sum[quad]; }
        case 1u: { return b_sum[quad]; }
        case 2u: { return c_sum[quad]; }
        default: { return d_sum[quad]; }
    }
}

fn store(which: u32, quad: u32, total: vec4<f32>) {
    switch which {
        case 0u: { a_sum[quad] = total; }
        case 1u: { b_sum[quad] = total; }
        case 2u: { c_sum[quad] = total; }
        default: { d_sum[quad] = total; }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    var tile = flat_group(group, groups);
    var which = 0u;
    var col_quads = params.a_quads;
    var width = tile_width(col_quads);
    for (var tiles = (col_quads + width - 1u) / width; which < 3u && tile >= tiles;) {
        tile -= tiles;
        which++;
        col_quads = quads_of(which);
        width = tile_width(col_quads);
        tiles = (col_quads + width - 1u) / width;
    }
    let quad = tile * width + lane % width;
    var sum = vec4(0.0);
    if quad < col_quads {
        for (var block = lane / width; block < params.blocks; block += 64u / width) {
            sum += partial(which, block * col_quads + quad);
        }
    }
    var total = fold_tile(lane, width, sum);
    if lane < width && quad < col_quads {
        if params.accumulate != 0u { total += before(which, quad); }
        store(which, quad, total);
    }
}
