// Norms of tensors, and the one that is furthest out of line. The kernel binds `norms`, `tensors`
// and `state`, and has LANES invocations.
struct Worst { ratio: f32, tensor: u32 }

// Norm of the unscaled gradient of one tensor.
fn tensor_norm(t: u32) -> Wide {
    let scaled = Wide(norms[t].significand, norms[t].exponent);
    return quotient(scaled, widen(bitcast<u32>(state.loss_scale)));
}

fn worse(a: Worst, b: Worst) -> Worst {
    if b.ratio > a.ratio { return b; }
    return a;
}

// The largest ratio of all, and the first tensor that has it. Every invocation must call it, in
// uniform control flow, with the worst of its own; every one gets the result.
fn workgroup_worst(lane: u32, mine: Worst) -> Worst {
    let ratio = workgroup_max(lane, mine.ratio);
    let first = workgroup_max_u32(lane, select(0u, ~mine.tensor, mine.ratio == ratio));
    return Worst(ratio, ~first);
}

// Clips the gradient of one tensor. Gives by how much, or 0 where it was within the bound.
fn clip_tensor(t: u32, bound: Wide) -> f32 {
    let norm = tensor_norm(t);
    var excess = 0.0;
    if is_judged() && exceeds(norm, bound) {
        tensors[t].clip_coefficient *= narrow(quotient(bound, norm));
        excess = narrow(quotient(norm, bound));
    }
    return excess;
}
