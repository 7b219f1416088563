//! What becomes of a run's numbers on the host: files, statistics, advice, pictures. No GPU.

#[cfg(feature = "dashboard")]
mod dashboard;
mod report;
mod sinks;
mod statistics;
mod tensorboard;

use evenkeel::step::Reason;
use evenkeel::train::Telemetry;
use evenkeel::watch::Record;

/// A step as the trainer reports it.
fn telemetry(step: u64) -> Telemetry {
    Telemetry {
        step,
        loss: 2.5,
        gradient_norm: 0.1,
        max_norm: 1.0,
        clip_coefficient: 1.0,
        loss_scale: 65536.0,
        applied: true,
        skipped_total: 0,
        skipped_in_row: 0,
        applied_total: step as u32 + 1,
        learning_rate: 1e-3,
        reason: Reason::None,
        nonfinite_count: 0,
        zero_count: 7,
        gave_up: None,
        event_bits: 0,
        event_value: 0.0,
        event_tensor: 0,
    }
}

/// Numbers without a pattern, the same every time.
fn noise(step: u64) -> f64 {
    let mixed = (step + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

#[test]
fn telemetry_becomes_a_record() {
    let record = Record::from(&telemetry(3));
    assert_eq!(record.step, 3);
    let scalars: Vec<_> = record.scalars().collect();
    let expected = [
        ("loss", 2.5),
        ("gradient_norm", f64::from(0.1_f32)),
        ("clip_coefficient", 1.0),
        ("loss_scale", 65536.0),
        ("learning_rate", f64::from(1e-3_f32)),
        ("applied", 1.0),
        ("skipped_total", 0.0),
        ("nonfinite_count", 0.0),
        ("zero_count", 7.0),
    ];
    assert_eq!(scalars, expected);
    assert!(record.applied() && !record.clipped() && record.events.is_empty());

    let clipped = Telemetry { clip_coefficient: 0.25, gradient_norm: 4.0, ..telemetry(4) };
    let clipped = Record::from(&clipped);
    assert!(clipped.clipped());
    assert_eq!(clipped.clipped_norm(), Some(1.0));

    let reason = Reason::NonFiniteGradient;
    let skipped = Telemetry { applied: false, nonfinite_count: 12, reason, ..telemetry(5) };
    let skipped = Record::from(&Telemetry { clip_coefficient: 0.0, ..skipped });
    assert!(!skipped.applied() && !skipped.clipped());
    assert_eq!(skipped.events, ["skipped: 12 gradient elements are NaN or Inf"]);

    let skipped = |reason| Telemetry { applied: false, loss: f32::NAN, reason, ..telemetry(6) };
    let events = |reason| Record::from(&skipped(reason)).events;
    assert_eq!(events(Reason::NonFiniteLoss), ["skipped: the loss is NaN"]);
    let statistics = "skipped: new running statistics are NaN or Inf";
    assert_eq!(events(Reason::NonFiniteState), [statistics]);
}

#[test]
fn records_hold_any_scalars() {
    let mut record = Record::new(1).with("a", 1.0).with(String::from("b"), 2.0).with("a", 3.0);
    record.add_tensor("gradient_norm", "blocks.0/odd.weight", 4.0);
    record.add_tensor("weight_rms", "head.weight", 5.0);
    record.set("gradient_norm", 6.0);
    assert_eq!(record.get("a"), Some(3.0));
    assert_eq!(record.get("gradient_norm"), Some(6.0));
    assert_eq!(record.get("gradient_norm/blocks.0/odd.weight"), Some(4.0));
    assert_eq!(record.get("missing"), None);
    let norms: Vec<_> = record.tensors("gradient_norm").collect();
    assert_eq!(norms, [("blocks.0/odd.weight", 4.0)]);
    assert_eq!(record.scalars().count(), 5);
}

#[test]
#[should_panic(expected = "\"step\" cannot name a scalar")]
fn step_cannot_name_a_scalar() {
    Record::new(0).set("step", 1.0);
}
