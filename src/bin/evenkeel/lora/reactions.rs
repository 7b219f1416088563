//! What a step did by itself, and why, in words.

use evenkeel::plan::Parameters;
use evenkeel::step::{Event, Reason};
use evenkeel::train::Telemetry;

/// All automatic reactions of a step, each with its cause.
pub fn of(step: &Telemetry, threshold: f32, parameters: &Parameters) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    if !step.applied {
        all.push(skipped(step));
    }
    let z = step.event_value;
    let tensor = || {
        let spec = parameters.trained().get(step.event_tensor as usize);
        spec.map_or("a tensor", |spec| spec.name.as_str())
    };
    let worded = step.events().filter_map(|event| match event {
        Event::LossSpike => Some(format!(
            "loss spike: {} is {z:.1} standard deviations above the mean, and {threshold} is the \
             threshold",
            step.loss
        )),
        Event::NormSpike => Some(format!(
            "norm spike: {} is {z:.1} standard deviations above the mean, and {threshold} is the \
             threshold",
            step.gradient_norm
        )),
        Event::ClippedHarder => Some(format!("clipped harder, to a norm of {}", step.max_norm)),
        Event::LearningRateCut => {
            Some(format!("learning rate cut to {} after a spike", step.learning_rate))
        }
        Event::MomentsReset => Some(format!("moments of {} emptied after a spike", tensor())),
        Event::RolledBack => Some("went back to a snapshot after spikes".to_owned()),
        // Nothing is wrong when one is taken.
        Event::Snapshot => None,
        Event::LossScaleDown => Some(format!(
            "loss scale lowered from {}: {} gradient elements overflowed",
            step.loss_scale, step.nonfinite_count
        )),
        Event::LossScaleUp => {
            Some(format!("loss scale raised from {} after clean steps", step.loss_scale))
        }
    });
    all.extend(worded);
    if let Some(reason) = step.gave_up {
        let row = step.skipped_in_row;
        all.push(format!(
            "training gave up: {row} steps in a row were skipped, first for {reason:?}"
        ));
    }
    all
}

fn skipped(step: &Telemetry) -> String {
    match step.reason {
        Reason::NonFiniteGradient => {
            format!("skipped: {} gradient elements are NaN or Inf", step.nonfinite_count)
        }
        Reason::NonFiniteLoss => format!("skipped: the loss is {}", step.loss),
        Reason::NonFiniteState => "skipped: new running statistics are NaN or Inf".to_owned(),
        Reason::LossSpike => "skipped: the loss is out of line".to_owned(),
        Reason::NormSpike => "skipped: the gradient norm is out of line".to_owned(),
        Reason::GaveUp => "skipped: training had given up".to_owned(),
        Reason::RolledBack => "skipped: the run went back to a snapshot".to_owned(),
        Reason::None => "skipped".to_owned(),
    }
}
