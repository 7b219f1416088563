// Magnitudes far outside f32's range, and exact scaling by powers of two. Exponents are integers,
// so nothing overflows, underflows or is flushed.

// |x| = significand_bits * 2^(exponent_bits - 150) for every finite x, subnormal or not.
fn exponent_bits(bits: u32) -> u32 { return max((bits >> 23u) & 255u, 1u); }

fn significand_bits(bits: u32) -> u32 {
    return (bits & 0x7fffffu) | select(0u, 0x800000u, (bits & 0x7f800000u) != 0u);
}

// 2^exponent for exponents up to 127; 0 where that is below the normal range.
fn power_of_two(exponent: i32) -> f32 {
    return bitcast<f32>(u32(max(exponent + 127, 0)) << 23u);
}

// significand * 2^exponent, significand in [1, 2) or 0.
struct Wide { significand: f32, exponent: i32 }

// Takes bits, because a device that flushes subnormals may do so to any f32.
fn widen(bits: u32) -> Wide {
    let significand = significand_bits(bits);
    if significand == 0u { return Wide(0.0, -1024); }
    let shift = countLeadingZeros(significand) - 8u;
    let fraction = (significand << shift) & 0x7fffffu;
    let exponent = i32(exponent_bits(bits)) - 127 - i32(shift);
    return Wide(bitcast<f32>(0x3f800000u | fraction), exponent);
}

// Division by a power of two is exact.
fn quotient(a: Wide, b: Wide) -> Wide {
    var ratio = a.significand;
    if b.significand != 1.0 { ratio /= b.significand; }
    let wide = widen(bitcast<u32>(ratio));
    return Wide(wide.significand, wide.exponent + a.exponent - b.exponent);
}

fn exceeds(a: Wide, b: Wide) -> bool {
    return a.exponent > b.exponent
        || (a.exponent == b.exponent && a.significand > b.significand);
}

// The nearest f32, the largest one above the range; subnormals are made by shifting.
fn narrow(wide: Wide) -> f32 {
    if wide.exponent > 127 { return bitcast<f32>(0x7f7fffffu); }
    let fraction = bitcast<u32>(wide.significand) & 0x7fffffu;
    if wide.exponent >= -126 {
        return bitcast<f32>((u32(wide.exponent + 127) << 23u) | fraction);
    }
    let shift = u32(-126 - wide.exponent);
    if shift > 24u { return 0.0; }
    return bitcast<f32>(((fraction | 0x800000u) + (1u << (shift - 1u))) >> shift);
}
