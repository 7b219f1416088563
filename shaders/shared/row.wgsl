// A tensor row of `cols` elements takes row_quads(cols) quads; the elements beyond are padding.
fn row_quads(cols: u32) -> u32 { return (cols + 3u) / 4u; }

fn is_element(quad: u32, cols: u32) -> vec4<bool> {
    return vec4(4u * quad) + vec4(0u, 1u, 2u, 3u) < vec4(cols);
}

// The elements of a quad, zero where `keep` is false: padding, or whatever must not count.
fn masked(values: vec4<f32>, keep: vec4<bool>) -> vec4<f32> {
    return select(vec4(0.0), values, keep);
}

fn sum4(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }
