// Lion with a momentum in bf16, two words a quad.
@group(0) @binding(6) var<storage, read_write> m: array<vec2<u32>>;

fn load_momentum(i: u32) -> vec4<f32> { return load_moment(m[i]); }
fn keep_momentum(at: Place, value: vec4<f32>) {
    m[at.index] = round_moment(value, moment_draws(at.weight_index).m);
}
