//! What the device's own account of a run must be like to go on from.

use std::collections::BTreeSet;

use super::invalid;
use crate::error::Result;
use crate::step::{Reason, StepState, TensorState};
use crate::train::{DynamicLossScale, LossScale};

/// Counters that cannot be those of a run of so many steps, or flags that are none.
pub(super) fn check_state(state: &StepState, steps: u64) -> Result<()> {
    let wrong = |what: &str, value: u32| Err(invalid(format!("its {what} is {value}")));
    let scale = state.loss_scale;
    if !scale.is_normal() || scale < 0.0 {
        return Err(invalid(format!("its loss scale is {scale}")));
    }
    // The counters stop at the largest u32, and a rollback takes applied steps back.
    if u64::from(state.applied_total) + u64::from(state.skipped_total) > steps {
        let (applied, skipped) = (state.applied_total, state.skipped_total);
        let reason = format!("of its {steps} steps {applied} were applied and {skipped} skipped");
        return Err(invalid(reason));
    }
    if state.skipped_in_row > state.skipped_total {
        return wrong("count of steps skipped in a row", state.skipped_in_row);
    }
    if u64::from(state.growth_count) > steps {
        return wrong("count of clean steps", state.growth_count);
    }
    if state.verdict > 1 {
        return wrong("last verdict", state.verdict);
    }
    for (what, bits) in [
        ("last reason", state.reason),
        ("last veto", state.veto),
        ("reason to give up", state.gave_up),
    ] {
        if Reason::from_bits(bits) as u32 != bits {
            return wrong(what, bits);
        }
    }
    Ok(())
}

/// A clock that cannot be that of a tensor after so many applied steps.
pub(super) fn check_tensor(name: &str, tensor: &TensorState, applied_total: u32) -> Result<()> {
    let wrong =
        |what: &str, value: String| Err(invalid(format!("the {what} of {name} is {value}")));
    if tensor.steps > applied_total {
        return wrong("count of applied steps", format!("{} of {applied_total}", tensor.steps));
    }
    let corrections = [tensor.bias_correction1, tensor.bias_correction2];
    for share in corrections.into_iter().chain([tensor.clip_coefficient]) {
        if !(0.0..=1.0).contains(&share) {
            return wrong("bias correction or clip coefficient", share.to_string());
        }
    }
    if tensor.reset > 1 {
        return wrong("wish for empty moments", tensor.reset.to_string());
    }
    Ok(())
}

/// The account of a run as it goes on under the settings of another: what it has gone through is
/// its own, how the loss is scaled and when to give up is not.
pub(super) fn continued(
    state: &StepState,
    had_dynamic_scale: bool,
    scale: &LossScale,
) -> StepState {
    let (loss_scale, growth_count, hysteresis_left) = match scale {
        LossScale::Dynamic(DynamicLossScale { min, max, hysteresis, .. }) if had_dynamic_scale => {
            let left = state.hysteresis_left.min(*hysteresis);
            (state.loss_scale.clamp(*min, *max), state.growth_count, left)
        }
        _ => (scale.init(), 0, scale.hysteresis()),
    };
    // Otherwise the next bad step would be the last.
    let skipped_in_row = if state.gave_up == 0 { state.skipped_in_row } else { 0 };
    StepState { loss_scale, growth_count, hysteresis_left, skipped_in_row, gave_up: 0, ..*state }
}

/// Fails unless both lists, one name to a line, are the same.
pub(super) fn check_names(what: &str, theirs: &str, ours: &str) -> Result<()> {
    if theirs == ours {
        return Ok(());
    }
    let but = |these: &str, those: &str| {
        let those: BTreeSet<_> = those.lines().collect();
        let names: Vec<_> = these.lines().filter(|name| !those.contains(name)).collect();
        match names.len() {
            0..=4 => names.join(", "),
            count => format!("{} and {} more", names[..3].join(", "), count - 3),
        }
    };
    let (missing, extra) = (but(ours, theirs), but(theirs, ours));
    let reason = match (missing.is_empty(), extra.is_empty()) {
        (true, true) => format!("its {what} are in another order"),
        (false, true) => format!("it has no {missing}"),
        (true, false) => format!("it has {extra}, which are not here"),
        (false, false) => format!("it has no {missing}, but {extra}, which are not here"),
    };
    Err(invalid(format!("{reason}; build the model as it was")))
}
