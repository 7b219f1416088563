// Sums of squares of f32 as integers: sum = sum_i limbs[i] * 2^(32 i - 298). The smallest square
// is the lowest bit, and 2^86 of the largest fit, so nothing is rounded and order does not matter.
const LIMBS = 20u;
// Words of an ExactSum.
const WORDS = 24u;

struct ExactSum {
    limbs: array<u32, 20>,
    max_bits: u32,
    nonfinite_count: u32,
    zero_count: u32,
    padding: u32,
}

var<workgroup> upper: array<u32, LIMBS>;
var<workgroup> generates: atomic<u32>;
var<workgroup> propagates: atomic<u32>;

// The lane-th limb of a sum of which the lane-th term is (low + high * 2^32) * 2^(32 lane). All
// carries are found at once: a limb that has wrapped generates one, a limb of ones passes one on,
// and adding the masks of both lets carries run through limbs of ones. Every invocation must call
// it, once, in uniform control flow; those from LIMBS on get nothing of use.
fn carry_limbs(lane: u32, low: u32, high: u32) -> u32 {
    if lane < LIMBS { upper[lane] = high; }
    workgroupBarrier();
    var limb = low;
    if lane < LIMBS {
        if lane > 0u { limb += upper[lane - 1u]; }
        if limb < low { atomicOr(&generates, 1u << lane); }
        if limb == 0xffffffffu { atomicOr(&propagates, 1u << lane); }
    }
    workgroupBarrier();
    let passing = atomicLoad(&propagates);
    let carries = ((atomicLoad(&generates) << 1u) + passing) ^ passing;
    return limb + ((carries >> (lane & 31u)) & 1u);
}
