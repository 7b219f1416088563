// In each of the first heads of a row, the pair (a, b) = (x[j], x[j + head_dim / 2]) becomes
// (a cos - b sin, b cos + a sin) by the angle of table row r % time; the rest of the row is copied.
// inverse 1 turns the other way: the backward pass. One invocation per pair of quads, or per quad
// of the rest. A row of the table is cos | sin, each of head_dim / 2.
struct RotaryParams {
    rows: u32,
    quads: u32,
    time: u32,
    rotated_heads: u32,
    half_quads: u32,
    inverse: u32,
}

@group(0) @binding(0) var<uniform> params: RotaryParams;
@group(0) @binding(1) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> x: array<Quad>;
@group(0) @binding(3) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    let pairs = params.rotated_heads * params.half_quads;
    let units = params.quads - pairs;
    let row = i / units;
    let unit = i % units;
    if row < params.rows {
        let x_row = row * params.quads;
        if unit < pairs {
            let j = unit % params.half_quads;
            let low = x_row + 2u * (unit - j) + j;
            let high = low + params.half_quads;
            let cos_index = row % params.time * 2u * params.half_quads + j;
            let c = table[cos_index];
            let s = select(1.0, -1.0, params.inverse != 0u) * table[cos_index + params.half_quads];
            let a = unpack(x[low]);
            let b = unpack(x[high]);
            y[low] = pack(a * c - b * s);
            y[high] = pack(b * c + a * s);
        } else {
            let rest = x_row + pairs + unit;
            y[rest] = x[rest];
        }
    }
}
