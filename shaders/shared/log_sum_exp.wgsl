// log(sum(exp(x))) of a row in one pass over it. Each lane keeps a running maximum, how often it
// occurred, and the sum of the other exponentials relative to it. The ones are kept apart so that
// a sum barely above 1, the row of a confident model, keeps its digits.
struct RunningExponentials { largest: f32, ties: f32, others: f32, poisoned: bool }

struct LogSumExp {
    largest: f32, // of the counted elements
    others: f32,  // sum(exp(x - largest)) - 1
    log_sum: f32, // log(1 + others)
    empty: bool,  // nothing was counted; the rest is meaningless
}

// The lowest f32, a finite -Inf. In hexadecimal, since Tint rejects a decimal that must be rounded
// into range.
const LOWEST = -0x1.fffffep+127;

fn no_exponentials() -> RunningExponentials { return RunningExponentials(LOWEST, 0.0, 0.0, false); }

fn rebase(running: RunningExponentials, largest: f32) -> RunningExponentials {
    var rebased = running;
    if running.largest < largest {
        let factor = exp_nonpositive(running.largest - largest);
        rebased.others = (running.others + running.ties) * factor;
        rebased.ties = 0.0;
        rebased.largest = largest;
    }
    return rebased;
}

// NaN and +Inf are found by their bits, since max() may drop them; they poison the row. -Inf is
// an element of probability 0.
fn count_exponentials(
    running: RunningExponentials, x: vec4<f32>, counted: vec4<bool>,
) -> RunningExponentials {
    let bits = bitcast<vec4<u32>>(x);
    let nonfinite = (bits & vec4(0x7f800000u)) == vec4(0x7f800000u);
    let poison = nonfinite & (bits != vec4(0xff800000u)) & counted;
    let usable = counted & !nonfinite;
    let finite = select(vec4(LOWEST), x, usable);
    let largest = max(max(finite.x, finite.y), max(finite.z, finite.w));
    var next = rebase(running, max(running.largest, largest));
    let tie = usable & (finite == vec4(next.largest));
    next.ties += sum4(masked(vec4(1.0), tie));
    next.others += sum4(masked(exp4_nonpositive(finite - next.largest), usable & !tie));
    next.poisoned = running.poisoned | any(poison);
    return next;
}

// The whole row's result, for every lane. A poisoned row gives NaN.
fn workgroup_log_sum_exp(lane: u32, running: RunningExponentials) -> LogSumExp {
    let largest = workgroup_max(lane, running.largest);
    let own = rebase(running, largest);
    let poison = select(0.0, 1.0, own.poisoned);
    let total = workgroup_sum_vec4(lane, vec4(own.ties, own.others, poison, 0.0));
    let others = total.y + (total.x - 1.0);
    if total.z > 0.0 {
        let nan = nan_from(bitcast<u32>(total.z));
        return LogSumExp(nan, nan, nan, false);
    }
    return LogSumExp(largest, others, log_one_plus(others), total.x == 0.0);
}
