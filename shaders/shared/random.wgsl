// Counter-based random numbers: the same counter and key give the same bits on every adapter.
// Keys hold what names a stream, counters a position in it; the last word of every key is a domain,
// so that no two uses of randomness share numbers.
const DOMAIN_DROPOUT = 1u;
const DOMAIN_INITIALIZE = 2u;

fn rotate_left(x: u32, bits: u32) -> u32 { return (x << bits) | (x >> (32u - bits)); }

// Two rounds: pairs (0, 1) and (2, 3), then pairs (0, 3) and (2, 1).
fn threefry_rounds(state: vec4<u32>, a: vec2<u32>, b: vec2<u32>) -> vec4<u32> {
    var s = state;
    s.x += s.y; s.y = rotate_left(s.y, a.x) ^ s.x;
    s.z += s.w; s.w = rotate_left(s.w, a.y) ^ s.z;
    s.x += s.w; s.w = rotate_left(s.w, b.x) ^ s.x;
    s.z += s.y; s.y = rotate_left(s.y, b.y) ^ s.z;
    return s;
}

fn threefry_even(state: vec4<u32>) -> vec4<u32> {
    let s = threefry_rounds(state, vec2(10u, 26u), vec2(11u, 21u));
    return threefry_rounds(s, vec2(13u, 27u), vec2(23u, 5u));
}

fn threefry_odd(state: vec4<u32>) -> vec4<u32> {
    let s = threefry_rounds(state, vec2(6u, 20u), vec2(17u, 11u));
    return threefry_rounds(s, vec2(25u, 10u), vec2(18u, 20u));
}

// Threefry-4x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").
fn threefry4x32(counter: vec4<u32>, key: vec4<u32>) -> vec4<u32> {
    let parity = key.x ^ key.y ^ key.z ^ key.w ^ 0x1bd11bdau;
    var s = threefry_even(counter + key);
    s = threefry_odd(s + vec4(key.yzw, parity + 1u));
    s = threefry_even(s + vec4(key.zw, parity, key.x + 2u));
    s = threefry_odd(s + vec4(key.w, parity, key.x, key.y + 3u));
    s = threefry_even(s + vec4(parity, key.xy, key.z + 4u));
    return s + vec4(key.xyz, key.w + 5u);
}

// Odd multiples of 2^-24: never 0, never 1, symmetric about 1/2, exact in f32.
fn uniform_unit(words: vec4<u32>) -> vec4<f32> {
    return vec4<f32>((words >> vec4(8u)) | vec4(1u)) * 5.9604645e-8;
}

// Standard normal by the inverse error function (Giles, "Approximating the erfinv function", single
// precision); |z| <= 5.3. WGSL's log may be off by 2^-21 near 1, where the result hardly depends
// on it: there it is x times a polynomial of slope 1/4.
fn normal(words: vec4<u32>) -> vec4<f32> {
    let x = 2.0 * uniform_unit(words) - 1.0;
    let w = -log((1.0 - x) * (1.0 + x));
    let a = min(w, vec4(5.0)) - 2.5;
    let centre = (((((((2.81022636e-8 * a + 3.43273939e-7) * a - 3.5233877e-6) * a
        - 4.39150654e-6) * a + 2.1858087e-4) * a - 1.25372503e-3) * a - 4.17768164e-3) * a
        + 0.246640727) * a + 1.50140941;
    let b = sqrt(max(w, vec4(5.0))) - 3.0;
    let tail = (((((((-2.00214257e-4 * b + 1.00950558e-4) * b + 1.34934322e-3) * b
        - 3.67342844e-3) * b + 5.73950773e-3) * b - 7.6224613e-3) * b + 9.43887047e-3) * b
        + 1.00167406) * b + 2.83297682;
    return 1.41421356 * x * select(tail, centre, w < vec4(5.0));
}

// Words of the four elements from dense index `first` on: element e has word e % 4 of block e / 4.
fn initialize_words(first: u32, seed: u32, stream: u32) -> vec4<u32> {
    let key = vec4(seed, stream, 0u, DOMAIN_INITIALIZE);
    let a = threefry4x32(vec4(first / 4u, 0u, 0u, 0u), key);
    if first % 4u == 0u { return a; }
    let b = threefry4x32(vec4(first / 4u + 1u, 0u, 0u, 0u), key);
    switch first % 4u {
        case 1u: { return vec4(a.yzw, b.x); }
        case 2u: { return vec4(a.zw, b.xy); }
        default: { return vec4(a.w, b.xyz); }
    }
}

// Zero beyond column `cols` in quad `quad` of a row.
fn mask_padding(values: vec4<f32>, quad: u32, cols: u32) -> vec4<f32> {
    return select(vec4(0.0), values, quad * 4u + vec4(0u, 1u, 2u, 3u) < vec4(cols));
}
