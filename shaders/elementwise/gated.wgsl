// y[r, c] = f(gate[r, c]) up[r, c], where a row of x is gate | up and f the activation of this
// kind. One invocation per quad of y.
struct GatedParams { quads: u32, hidden_quads: u32, kind: u32 }

@group(0) @binding(0) var<uniform> params: GatedParams;
@group(0) @binding(1) var<storage, read> x: array<Quad>;
@group(0) @binding(2) var<storage, read_write> y: array<Quad>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    if i < params.quads {
        let gate = i + i / params.hidden_quads * params.hidden_quads;
        let activated = activate(params.kind, unpack(x[gate]));
        y[i] = pack(activated * unpack(x[gate + params.hidden_quads]));
    }
}
