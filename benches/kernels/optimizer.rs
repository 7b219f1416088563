use evenkeel::kernels::*;

use crate::bench::{Family, bind};
use crate::update::{Layout, PARAMETERS};

pub fn run(family: &mut Family<'_>) {
    let layout = Layout::new(family, 148);
    let bytes = u64::from(PARAMETERS) * 4;
    let adamw = layout.adamw();
    // The gradient is read; weight and moments are read and written.
    family.moves("10 M in 148 tensors", 7 * bytes, &adamw);
    let AdamwParams {
        chunk_count,
        beta1,
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        eps,
        weight_decay,
    } = adamw.params;
    let adam = Adam {
        params: AdamParams {
            chunk_count,
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            eps,
            weight_decay,
        },
        state: bind(&layout.state),
        chunks: bind(&layout.chunks),
        tensors: bind(&layout.tensors),
        gradient: bind(&layout.gradient),
        weight: bind(&layout.weight),
        m: bind(&layout.m),
        v: bind(&layout.v),
    };
    family.moves("10 M in 148 tensors", 7 * bytes, &adam);
    let params =
        SgdParams { chunk_count, momentum: 0.9, dampening: 0.0, nesterov: 0, weight_decay };
    let sgd = Sgd {
        params,
        state: bind(&layout.state),
        chunks: bind(&layout.chunks),
        tensors: bind(&layout.tensors),
        gradient: bind(&layout.gradient),
        weight: bind(&layout.weight),
        momentum_buffer: bind(&layout.m),
    };
    family.moves("10 M in 148 tensors", 5 * bytes, &sgd);
}
