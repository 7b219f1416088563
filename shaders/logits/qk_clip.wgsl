// Where the step is applied: w *= factor over each query and key head of a packed tensor, so that
// head h's logits shrink by gamma_h = min(1, threshold / max_logit[h]). The key head takes the least
// gamma of its query heads to the power 1 - alpha, each query head what is left of its own. One
// invocation per quad.
struct QkClipParams {
    first: u32,
    heads: u32,
    kv_heads: u32,
    head_quads: u32,
    threshold: f32,
    alpha: f32,
}

@group(0) @binding(0) var<uniform> params: QkClipParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read> max_logit: array<u32>; // f32 (heads)
// From quad `first` on (heads + 2 kv_heads, head_quads): the value heads stay.
@group(0) @binding(3) var<storage, read_write> weight: array<Weight>;

const LEAST = 1e-30; // keeps every factor a normal number

// 1 for a logit at or below the threshold, and for one that is not finite.
fn gamma(head: u32) -> f32 {
    let logit = bitcast<f32>(max_logit[head]);
    if !is_finite_bits(max_logit[head]) || logit <= params.threshold { return 1.0; }
    return max(params.threshold / logit, LEAST);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    let head = i / params.head_quads;
    let step = state;
    if head < params.heads + params.kv_heads && step.verdict == APPLY {
        let shared_by = params.heads / params.kv_heads;
        let is_query = head < params.heads;
        let kv_head = select(head - params.heads, head / shared_by, is_query);
        var least = 1.0;
        for (var h = kv_head * shared_by; h < (kv_head + 1u) * shared_by; h++) {
            least = min(least, gamma(h));
        }
        if least < 1.0 {
            // Its rounding moves the balance of the two, not their product.
            let key_factor = exp2((1.0 - params.alpha) * log2(least));
            var factor = key_factor;
            if is_query { factor = gamma(head) / key_factor; }
            scale_weight(params.first + i, factor, step);
        }
    }
}
