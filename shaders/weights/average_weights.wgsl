// average[i] moves towards weight[i] by a share of the way, if the step is applied: an exponential
// moving average in f32. A skipped step writes nothing. One invocation per quad.
struct AverageWeightsParams {
    quads: u32,
    share: f32,
    warms_up: u32,
}

@group(0) @binding(0) var<uniform> params: AverageWeightsParams;
@group(0) @binding(1) var<storage, read> state: StepState;
@group(0) @binding(2) var<storage, read_write> weight: array<Weight>;
@group(0) @binding(3) var<storage, read_write> average: array<vec4<f32>>;

// 1 - min(decay, (1 + t) / (10 + t)), without the difference of two numbers near 1. The applied steps
// t include this one.
fn share_of_step(step: StepState) -> f32 {
    if params.warms_up == 0u { return params.share; }
    return max(params.share, 9.0 / (10.0 + f32(step.applied_total)));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = flat_group(group, groups) * 64u + lane;
    let step = state;
    if i < params.quads && step.verdict == APPLY {
        let old = average[i];
        let new_average = old + (weight_value(i) - old) * share_of_step(step);
        // An update that took a weight out of f32 is no reason to lose what was before it.
        let exponents = bitcast<vec4<u32>>(new_average) & vec4(0x7f800000u);
        average[i] = select(new_average, old, exponents == vec4(0x7f800000u));
    }
}
