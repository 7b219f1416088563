//! Schedules against their formulas, and the table against the schedule.

use super::*;

/// As `shaders/step/shared/schedule.wgsl`.
fn look_up(table: &RateTable, t: u32) -> f32 {
    let (x, first) = if t < table.rising_steps {
        (t, 0)
    } else if t < table.middle_end {
        (t.max(table.middle_start) - table.middle_start, table.middle_first)
    } else {
        (table.decay_end - t.min(table.decay_end), table.decay_first)
    };
    let shift = (x | 1).ilog2().saturating_sub(table.knot_bits);
    let index = (first + (shift << table.knot_bits) + (x >> shift)) as usize;
    let here = table.rates[index];
    if shift == 0 {
        return here;
    }
    let share = (x & ((1 << shift) - 1)) as f32 / (1u32 << shift) as f32;
    here + (table.rates[index + 1] - here) * share
}

fn ulps(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

/// Steps around everything that could matter, and some between.
fn steps(around: &[u64]) -> Vec<u32> {
    let edges = around.iter().chain(&[0, 1 << 12, 1 << 16, 1 << 24, 1 << 31, 1 << 32]);
    let near = edges.flat_map(|&edge| {
        let far = (0..32).flat_map(|bit| [1u64 << bit, (1 << bit) * 4 / 3]);
        let both = |d: u64| [edge.saturating_sub(d), edge.saturating_add(d)];
        far.flat_map(both).chain([edge]).collect::<Vec<_>>()
    });
    near.filter_map(|t| u32::try_from(t).ok()).collect()
}

fn pair(warmup: usize, total: usize, final_factor: f64) -> [Schedule; 2] {
    [
        Schedule::Linear { warmup, total, final_factor },
        Schedule::Cosine { warmup, total, final_factor },
    ]
}

#[test]
fn warm_up_then_decay() {
    let cosine = Schedule::Cosine { warmup: 4, total: 14, final_factor: 0.1 };
    let expect = [(0, 0.25), (3, 1.0), (4, 1.0), (9, 0.55), (14, 0.1), (999, 0.1)];
    for (t, factor) in expect {
        assert!((cosine.factor(t) - factor).abs() < 1e-12, "{t}: {}", cosine.factor(t));
    }
    let linear = Schedule::Linear { warmup: 0, total: 10, final_factor: 0.0 };
    for (t, factor) in [(0, 1.0), (5, 0.5), (10, 0.0), (11, 0.0)] {
        assert!((linear.factor(t) - factor).abs() < 1e-12, "{t}: {}", linear.factor(t));
    }
    assert_eq!(cosine.table(2.0).unwrap().rates.len(), 15);
    assert_eq!(Schedule::default().table(0.5).unwrap().rates, [0.5]);
}

fn stable(warmup: usize, decay: usize, total: usize, final_factor: f64) -> [Schedule; 2] {
    [DecayShape::Linear, DecayShape::OneMinusSqrt].map(|shape| Schedule::WarmupStableDecay {
        warmup,
        decay,
        total,
        shape,
        final_factor,
    })
}

/// Hägele et al. 2024: n / N_warmup up to N_warmup, then 1, then 1 - (n - (N - N_decay)) / N_decay
/// or 1 - √ of that.
#[test]
fn warm_up_then_stable_then_decay() {
    let [linear, root] = stable(4, 16, 30, 0.1);
    for schedule in [&linear, &root] {
        let early = [(0, 0.25), (2, 0.75), (3, 1.0), (4, 1.0), (9, 1.0), (13, 1.0), (14, 1.0)];
        for (t, factor) in early.into_iter().chain([(30, 0.1), (31, 0.1), (usize::MAX, 0.1)]) {
            assert_eq!(schedule.factor(t), factor, "{schedule:?} at {t}");
        }
    }
    for t in 14..30 {
        let over = (t - 14) as f64 / 16.0;
        for (schedule, shape) in [(&linear, 1.0 - over), (&root, 1.0 - over.sqrt())] {
            let expected = 0.1 + 0.9 * shape;
            let found = schedule.factor(t);
            assert!((found - expected).abs() < 1e-15, "{schedule:?} at {t}: {found}");
        }
    }
    // Without one of the parts.
    for schedule in stable(0, 0, 5, 0.5) {
        let factors: Vec<_> = (0..7).map(|t| schedule.factor(t)).collect();
        assert_eq!(factors, [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5], "{schedule:?}");
    }
    for schedule in stable(2, 4, 6, 0.0) {
        let ends = [0, 1, 2, 6].map(|t| schedule.factor(t));
        assert_eq!(ends, [0.5, 1.0, 1.0, 0.0], "{schedule:?}");
    }
    for schedule in stable(0, 0, 0, 0.2) {
        assert_eq!([schedule.factor(0), schedule.factor(9)], [0.2, 0.2], "{schedule:?}");
    }
}

/// With all of the run for the decay, a linear one is [`Schedule::Linear`].
#[test]
fn stable_for_no_time_is_linear() {
    for total in [9, 700, 100_000] {
        let [stable, _] = stable(3, total - 3, total, 0.25);
        let linear = Schedule::Linear { warmup: 3, total, final_factor: 0.25 };
        for t in steps(&[3, total as u64]) {
            let (found, expected) = (stable.factor(t as usize), linear.factor(t as usize));
            assert!((found - expected).abs() < 1e-15, "{t} of {total}: {found}");
        }
    }
}

/// Vaswani et al. 2017, equation 3, over its largest value.
#[test]
fn inverse_square_root() {
    for warmup in [1, 4, 4000] {
        let schedule = Schedule::InverseSquareRoot { warmup };
        let rate = |n: f64| n.powf(-0.5).min(n * (warmup as f64).powf(-1.5));
        let peak = rate(warmup as f64);
        for t in [0, 1, 2, 3, 4, warmup - 1, warmup, 4 * warmup - 1, 1_000_000] {
            let (found, expected) = (schedule.factor(t), rate(t as f64 + 1.0) / peak);
            assert!((found / expected - 1.0).abs() < 1e-14, "{warmup}, {t}: {found}");
        }
        assert_eq!(schedule.factor(warmup - 1), 1.0);
        assert_eq!(schedule.factor(4 * warmup - 1), 0.5);
    }
    let [none, one] = [0, 1].map(|warmup| Schedule::InverseSquareRoot { warmup });
    assert!((0..100).all(|t| none.factor(t) == one.factor(t)));
    let table = none.table(1.0).unwrap();
    assert_eq!([look_up(&table, 0), look_up(&table, 3)], [1.0, 0.5]);
    assert_eq!(look_up(&table, u32::MAX), 2f32.powi(-16));
}

/// One entry for each step, and each is f64 rounded once.
#[test]
fn short_schedules_are_exact() {
    let mut all = vec![Schedule::Constant { warmup: 0 }, Schedule::Constant { warmup: 7 }];
    all.push(Schedule::Factors(vec![0.3]));
    all.push(Schedule::Factors(vec![0.5, 2.0, 0.1]));
    let shapes =
        [(0, 0), (0, 1), (1, 1), (10, 10), (9, 10), (0, 7000), (3000, 65_535), (3, 65_536)];
    for (warmup, total) in shapes {
        for final_factor in [0.0, 0.1, 1.0, 3.0] {
            all.extend(pair(warmup, total, final_factor));
            for decay in [0, 1, 2, 3, (total - warmup) / 5, total - warmup] {
                if decay <= total - warmup {
                    all.extend(stable(warmup, decay, total, final_factor));
                }
            }
        }
    }
    for schedule in all {
        let table = schedule.table(0.3).unwrap();
        // Parts begin with an entry of their own.
        assert!(table.rates.len() <= LONGEST_EXACT + 2, "{schedule:?}");
        let ends = [table.middle_start, table.middle_end, table.decay_end].map(u64::from);
        for t in steps(&[&ends[..], &[7, 10, 3000, 7000]].concat()) {
            let expected = (0.3 * schedule.factor(t as usize)) as f32;
            assert_eq!(look_up(&table, t), expected, "{schedule:?} at {t}");
        }
    }
}

/// The formula of the fault: steps, factors in f64.
#[test]
fn the_end_holds() {
    for schedule in pair(10, 10, 0.1) {
        let rates: Vec<_> = (0..13).map(|t| schedule.factor(t)).collect();
        assert_eq!(rates[8..], [0.9, 1.0, 0.1, 0.1, 0.1], "{schedule:?}");
    }
    for schedule in pair(0, 0, 0.1) {
        assert_eq!([schedule.factor(0), schedule.factor(usize::MAX)], [0.1, 0.1]);
    }
}

#[test]
fn long_schedules_are_within_two_ulp() {
    let mut all = vec![Schedule::Constant { warmup: usize::MAX }];
    let totals = [65_537, (1 << 24) + 1, 40_000_000, u32::MAX as usize, 1 << 33, usize::MAX];
    for total in totals {
        for warmup in [0, 1, 2000, total / 3, total - 1, total] {
            for final_factor in [0.0, 1e-9, 0.1, 1.0, 2.5] {
                all.extend(pair(warmup, total, final_factor));
                for decay in [1, 3, 50_000, (total - warmup) / 5, total - warmup] {
                    if decay <= total - warmup {
                        all.extend(stable(warmup, decay, total, final_factor));
                    }
                }
            }
        }
    }
    for warmup in [0, 1, 2000, 65_537, 1 << 24, u32::MAX as usize - 1, usize::MAX] {
        all.push(Schedule::InverseSquareRoot { warmup });
    }
    for schedule in all {
        let table = schedule.table(6e-4).unwrap();
        let most = match schedule {
            Schedule::WarmupStableDecay { .. } => 250_000,
            _ => 172_036,
        };
        assert!(table.rates.len() <= most, "{schedule:?}: {}", table.rates.len());
        let ends = [schedule.warmup() as u64, u64::from(table.decay_end)];
        let middle = [table.middle_start, table.middle_end].map(u64::from);
        let ends = [ends, middle].concat();
        for t in steps(&ends) {
            let expected = (6e-4 * schedule.factor(t as usize)) as f32;
            let found = look_up(&table, t);
            assert!(ulps(found, expected) <= 2, "{schedule:?} at {t}: {found} for {expected}");
        }
    }
}

/// Against series, not against the same formula: (π x / 2)² for x of the span left.
#[test]
fn a_distant_end_is_reached_smoothly() {
    let total = 40_000_000;
    let [linear, cosine] = pair(0, total, 0.0).map(|schedule| schedule.table(1.0).unwrap());
    for left in [1u32, 2, 3, 100, 4095, 5000] {
        let x = f64::from(left) / total as f64;
        let t = total as u32 - left;
        assert!(ulps(look_up(&linear, t), x as f32) <= 2, "{left}");
        let square = ((FRAC_PI_2 * x).powi(2) - (FRAC_PI_2 * x).powi(4) / 3.0) as f32;
        assert!(ulps(look_up(&cosine, t), square) <= 2, "{left}");
    }
}

#[test]
fn impossible_schedules_are_refused() {
    let refused = |schedule: Schedule, word: &str| {
        let error = schedule.table(1.0).unwrap_err().to_string();
        assert!(error.contains(word), "{schedule:?}: {error}");
    };
    for schedule in pair(5, 4, 0.0).into_iter().chain(pair(usize::MAX, 0, 0.0)) {
        refused(schedule, "at least the warm-up");
    }
    for (warmup, total) in [(0, 0), (0, 10), (10, 10)] {
        for final_factor in [f64::NAN, f64::INFINITY, -0.1] {
            for schedule in pair(warmup, total, final_factor) {
                refused(schedule, "final_factor");
            }
        }
        for schedule in pair(warmup, total, 1e300) {
            refused(schedule, "in f32");
        }
    }
    let impossible = stable(3, 3, 5, 0.0).into_iter().chain(stable(1, usize::MAX, 5, 0.0));
    for schedule in impossible.chain(stable(usize::MAX, 1, 0, 0.0)) {
        refused(schedule, "at least warm-up and decay");
    }
    for final_factor in [f64::NAN, f64::INFINITY, -0.1] {
        for schedule in stable(0, 5, 10, final_factor) {
            refused(schedule, "final_factor");
        }
    }
    let of_rate = Schedule::InverseSquareRoot { warmup: 3 }.table(f64::MAX).unwrap_err();
    assert!(of_rate.to_string().contains("in f32"), "{of_rate}");
    refused(Schedule::Factors(vec![]), "at least one factor");
    refused(Schedule::Factors(vec![1.0, f64::NAN]), "the factor of step 1 is NaN");
    refused(Schedule::Factors(vec![1.0, -1.0, f64::NAN]), "the factor of step 1 is -1");
}
