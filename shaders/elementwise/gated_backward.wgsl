// dgate = dy up f'(gate), dup = dy f(gate), where a row of x is gate | up, one of dx is dgate | dup,
// and f the activation of this kind. One invocation per quad of dy writes one quad in each half.
struct GatedBackwardParams { quads: u32, hidden_quads: u32, kind: u32 }

@group(0) @binding(0) var<uniform> params: GatedBackwardParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>;
@group(0) @binding(2) var<storage, read> dy: array<Quad>;
@group(0) @binding(3) var<storage, read_write> x_gradient: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads {
        let gate_index = i + i / params.hidden_quads * params.hidden_quads;
        let up_index = gate_index + params.hidden_quads;
        let gate = unpack(x[gate_index]);
        let upstream = unpack(dy[i]);
        let slope = activate_derivative(params.kind, gate);
        x_gradient[gate_index] = pack(upstream * unpack(x[up_index]) * slope);
        x_gradient[up_index] = pack(upstream * activate(params.kind, gate));
    }
}
