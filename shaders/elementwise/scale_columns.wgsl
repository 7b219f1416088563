// y[r, c] = x[r, c] numerator[c] / divisor[c] + bias[c] over some quads of each row. Where both are
// the same, also where both are zero, the factor is exactly 1. One invocation per quad.
struct ScaleColumnsParams {
    rows: u32,
    row_quads: u32,
    first_quad: u32,
    quads: u32,
    has_factor: u32,
    has_bias: u32,
}

@group(0) @binding(0) var<uniform> params: ScaleColumnsParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>; // (rows, row_quads)
@group(0) @binding(2) var<storage, read> numerator: array<vec4<f32>>; // (quads)
@group(0) @binding(3) var<storage, read> divisor: array<vec4<f32>>; // (quads)
@group(0) @binding(4) var<storage, read> bias: array<Quad>; // (row_quads)
@group(0) @binding(5) var<storage, read_write> y: array<Quad>; // (rows, row_quads)

fn factor(q: u32) -> vec4<f32> {
    let above = numerator[q];
    let below = divisor[q];
    return select(above / below, vec4(1.0), above == below);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.rows * params.quads {
        let q = i % params.quads;
        let column = params.first_quad + q;
        let at = i / params.quads * params.row_quads + column;
        var values = unpack(x[at]);
        if params.has_factor != 0u { values *= factor(q); }
        if params.has_bias != 0u { values += unpack(bias[column]); }
        y[at] = pack(values);
    }
}
