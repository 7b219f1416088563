// The learning rate after `t` applied steps. `params` is the kernel's uniform, `learning_rates` its
// buffer: the knots of the rise by the steps since the start, those of the middle by the steps since
// its own, constant before it, then those of the decay by the steps until its end. Up to
// 2^(knot_bits + 1) each step is a knot, further out 2^knot_bits to a doubling; src/train/schedule
// makes them. Positions are integers: f32 has none above 2^24.
fn scheduled_rate(t: u32) -> f32 {
    var x = t;
    var first = 0u;
    if t >= params.rising_steps && t < params.middle_end {
        x = max(t, params.middle_start) - params.middle_start;
        first = params.middle_first;
    } else if t >= params.rising_steps {
        x = params.decay_end - min(t, params.decay_end);
        first = params.decay_first;
    }
    let shift = max(31u - countLeadingZeros(x | 1u), params.knot_bits) - params.knot_bits;
    let index = first + (shift << params.knot_bits) + (x >> shift);
    let here = learning_rates[index];
    if shift == 0u { return here; }
    let share = f32(x & ((1u << shift) - 1u)) * power_of_two(-i32(shift));
    return here + (learning_rates[index + 1u] - here) * share;
}
