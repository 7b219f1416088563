// y[c] = sum_b partials[b, first + c] / divisor[c], or y[c] += it; 0 where the divisor is 0. One
// invocation per quad.
struct DividedColumnSumParams {
    blocks: u32,
    row_quads: u32,
    first_quad: u32,
    quads: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: DividedColumnSumParams;
@group(0) @binding(1) var<storage, read> partials: array<vec4<f32>>; // (blocks, row_quads)
@group(0) @binding(2) var<storage, read> divisor: array<vec4<f32>>; // (quads)
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; // (quads)

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let q = flat_group(group, groups) * 64u + lane;
    if q < params.quads {
        var sum = vec4(0.0);
        for (var block = 0u; block < params.blocks; block++) {
            sum += partials[block * params.row_quads + params.first_quad + q];
        }
        let below = divisor[q];
        var total = select(sum / below, vec4(0.0), below == vec4(0.0));
        if params.accumulate != 0u { total += y[q]; }
        y[q] = total;
    }
}
