// Random numbers that moments are rounded by, which depend on quad and applied step alone.
const DOMAIN_MOMENTS = 7u;

// 16 bits for each number of quad i of the flat buffers: of a first moment, and of a second one.
struct Draws { m: vec4<u32>, v: vec4<u32> }

fn moment_draws(i: u32) -> Draws {
    let key = vec4(state.seed, 0u, 0u, DOMAIN_MOMENTS);
    let words = threefry4x32(vec4(i, state.applied_total, 0u, 0u), key);
    return Draws(unpack_bf16(words.xy) >> vec4(16u), unpack_bf16(words.zw) >> vec4(16u));
}
