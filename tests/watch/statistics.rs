//! Shares, spikes and thresholds against what the whole history says.

use evenkeel::watch::{Record, RunStatistics, Spike, SpikeScore, ThresholdAdviser};

use super::noise;

/// Losses with spikes, NaN, Inf and a level stretch.
fn history(length: u64) -> Vec<f64> {
    let value = |step: u64| match step {
        300..=440 => 2.0,
        _ if step % 173 == 50 => f64::NAN,
        _ if step % 211 == 60 => f64::INFINITY,
        _ if step % 97 == 40 => 1e3 + noise(step),
        _ if step % 331 == 20 => 1e30,
        _ if step % 89 == 30 => -1e6,
        _ => 3.0 - 1e-3 * step as f64 + 0.1 * noise(step),
    };
    (0..length).map(value).collect()
}

/// The definition, from all finite values before each.
fn spikes(values: &[f64], window: usize, deviations: f64) -> Vec<Option<Spike>> {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let spike = |at: usize| {
        let previous = &finite[at.checked_sub(window)?..at];
        let mean = previous.iter().sum::<f64>() / window as f64;
        let squares: f64 = previous.iter().map(|x| (x - mean) * (x - mean)).sum();
        let deviation = (squares / window as f64).sqrt();
        let value = finite[at];
        let stands_out = deviation >= 1e-10 && value > mean + deviations * deviation;
        stands_out.then_some(Spike { value, mean, deviation })
    };
    (0..finite.len()).map(spike).collect()
}

#[test]
fn spike_score_equals_its_definition() {
    let values = history(3000);
    for (window, deviations, horizon) in
        [(128, 6.0, 10_000), (128, 6.0, 500), (7, 1.5, 64), (1, 1.0, 5)]
    {
        let expected = spikes(&values, window, deviations);
        let mut score = SpikeScore::new(window, deviations, horizon);
        let mut finite = 0;
        for &value in &values {
            let spike = score.observe(value);
            if !value.is_finite() {
                assert_eq!(spike, None);
                continue;
            }
            assert_eq!(spike, expected[finite]);
            finite += 1;
            let recent = &expected[finite.saturating_sub(horizon)..finite];
            let share = recent.iter().flatten().count() as f64 / recent.len() as f64;
            assert_eq!(score.score(), share, "after {finite} values");
        }
        assert_eq!(score.spikes(), expected.iter().flatten().count() as u64);
    }
    let found = spikes(&values, 128, 6.0).iter().flatten().count();
    assert!((5..200).contains(&found), "{found} spikes say nothing");
}

#[test]
fn a_spike_is_above_by_more_than_six_deviations() {
    let mut score = SpikeScore::default();
    for step in 0..128 {
        // Mean 10, deviation 1.
        assert_eq!(score.observe(10.0 + f64::from(step % 2) * 2.0 - 1.0), None);
    }
    assert_eq!(score.clone().observe(16.0), None, "exactly 6 is not more");
    assert_eq!(score.clone().observe(3.0), None, "below is no spike");
    let spike = score.observe(16.5).expect("a spike");
    assert_eq!((spike.mean, spike.deviation, spike.z()), (10.0, 1.0, 6.5));
    assert_eq!(score.score(), 1.0 / 129.0);
}

#[test]
fn run_statistics_equal_counts_over_the_history() {
    let mut statistics = RunStatistics::new(20);
    let losses = history(1000);
    let mut records: Vec<Record> = Vec::new();
    for (step, &loss) in losses.iter().enumerate() {
        let step = step as u64;
        let (skipped, norm) = (step % 37 == 5, 0.2 + 2.0 * noise(step + 9));
        let coefficient = if skipped { 0.0 } else { (1.0 / norm).min(1.0) };
        let record = Record::new(step)
            .with("loss", loss)
            .with("gradient_norm", if skipped { f64::NAN } else { norm })
            .with("clip_coefficient", coefficient)
            .with("applied", if skipped { 0.0 } else { 1.0 });
        let record = statistics.annotate(record);

        let applied: Vec<_> = records.iter().chain([&record]).filter(|r| r.applied()).collect();
        let window = &applied[applied.len().saturating_sub(20)..];
        let clipped = |records: &[&Record]| records.iter().filter(|r| r.clipped()).count();
        let share = clipped(window) as f64 / window.len().max(1) as f64;
        assert_eq!(record.get("clip_share"), Some(share));
        assert_eq!(statistics.clipped(), clipped(&applied) as u64);
        assert_eq!(statistics.applied(), applied.len() as u64);
        assert_eq!(statistics.skipped(), step + 1 - applied.len() as u64);
        let after = record.get("clipped_norm").expect("a norm");
        if skipped {
            assert!(after.is_nan());
        } else {
            assert_eq!(after, f64::from(norm.min(1.0) as f32), "from {norm}");
        }
        records.push(record);
    }
    assert_eq!(statistics.steps(), 1000);
    let expected = spikes(&losses, 128, 6.0);
    let count = expected.iter().flatten().count();
    let events = records.iter().flat_map(|record| &record.events);
    assert_eq!(events.filter(|event| event.starts_with("loss spike: ")).count(), count);
    let last = records.last().expect("records");
    assert_eq!(last.get("loss_spike_score"), Some(count as f64 / expected.len() as f64));
    assert_eq!(last.get("norm_spike_score"), Some(0.0));
    assert_eq!(statistics.loss_spikes().spikes(), count as u64);
}

/// NumPy's default percentile, by another path: weights of all order statistics.
fn percentile(norms: &[f32], percentile: f64) -> f64 {
    let mut norms: Vec<f64> = norms.iter().map(|&norm| norm.into()).collect();
    norms.sort_by(|a, b| a.partial_cmp(b).expect("finite"));
    let position = (norms.len() - 1) as f64 * percentile / 100.0;
    let weight = |index: usize| (1.0 - (position - index as f64).abs()).max(0.0);
    norms.iter().enumerate().map(|(index, norm)| weight(index) * norm).sum()
}

#[test]
fn advice_equals_exact_percentiles() {
    for (length, wanted) in [(1, 90.0), (2, 50.0), (101, 90.0), (1000, 97.5), (5003, 99.9)] {
        let mut adviser = ThresholdAdviser::new(50).percentile(wanted);
        let mut counted = Vec::new();
        for step in 0..length + 50 {
            // Heavy tail, as norms have.
            let norm = (0.3 / (1.0 - noise(step)).powf(0.4)) as f32;
            let (skipped, finite) = (step % 41 == 7, step % 53 != 11);
            let shown = if finite { norm } else { f32::INFINITY };
            let record = Record::new(step).with("gradient_norm", shown.into());
            adviser.update(&record.with("applied", if skipped { 0.0 } else { 1.0 }));
            if step >= 50 && !skipped && finite {
                counted.push(norm);
            }
        }
        let Some(advice) = adviser.advise() else { panic!("no advice from {length}") };
        assert_eq!((advice.norms, advice.warmup), (counted.len(), 50));
        let largest = counted.iter().copied().fold(0.0, f32::max);
        assert_eq!(advice.largest, largest);
        assert_eq!(advice.suggestion.percentile, wanted);
        assert!(advice.candidates.contains(&advice.suggestion));
        assert!(advice.candidates.is_sorted_by(|a, b| a.percentile < b.percentile));
        for candidate in &advice.candidates {
            let exact = percentile(&counted, candidate.percentile);
            // Three digits are at most 1 % above.
            let threshold = f64::from(candidate.threshold);
            let allowed = exact * (1.0 - 1e-6)..=exact * 1.010_001;
            assert!(allowed.contains(&threshold), "{candidate:?} for {exact}");
            let clipped = counted.iter().filter(|&&norm| norm > candidate.threshold).count();
            assert_eq!(candidate.clipped, clipped as f64 / counted.len() as f64);
        }
    }
}

#[test]
fn advice_is_printed_as_a_table() {
    let mut adviser = ThresholdAdviser::new(100);
    assert_eq!(adviser.advise(), None);
    for step in 0..1100 {
        let norm = if step < 100 { 50.0 } else { (step - 99) as f64 / 1000.0 };
        adviser.update(&Record::new(step).with("gradient_norm", norm));
    }
    let text = adviser.advise().expect("advice").to_string();
    let expected = "\
clip threshold 0.901: percentile 90 of 1,000 norms, 100 steps of warm-up left out; it would have clipped 9.9 % of the steps
  percentile   threshold   steps clipped
          50       0.501          49.9 %
          75       0.751          24.9 %
          90       0.901           9.9 %  <
          95       0.951           4.9 %
          99       0.991          0.90 %
        99.9           1             0 %
  the largest norm was 1";
    assert_eq!(text, expected);

    let mut zeros = ThresholdAdviser::new(0);
    zeros.update(&Record::new(0).with("gradient_norm", 0.0));
    assert_eq!(zeros.advise(), None);
    zeros.update(&Record::new(1).with("gradient_norm", 3.0));
    let text = zeros.advise().expect("advice").to_string();
    assert!(text.ends_with("so few norms say little"), "{text}");
}
