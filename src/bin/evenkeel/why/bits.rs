//! Whether numbers are the same, bit by bit, and how far apart they are.

use evenkeel::watch::{Record, scalar};
use serde::Serialize;

/// Numbers that count something: they have no last place.
const COUNTS: [&str; 4] =
    [scalar::APPLIED, scalar::SKIPPED_TOTAL, scalar::NONFINITE_COUNT, scalar::ZERO_COUNT];

/// Two numbers of a step that are to be the same and are not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub step: u64,
    /// Its name in the records.
    pub field: String,
    /// As recorded; `None` where the record has no such number.
    #[serde(serialize_with = "number_or_name")]
    pub then: Option<f64>,
    #[serde(serialize_with = "number_or_name")]
    pub now: Option<f64>,
    /// Units in the last place of f32 between them, where both are finite and count nothing.
    pub ulps: Option<u64>,
}

impl Difference {
    /// Those of these numbers that are others in the second record. What only a clock gives is to
    /// be left out.
    pub fn each<'a>(
        then: &Record,
        now: &Record,
        fields: impl IntoIterator<Item = &'a str>,
    ) -> impl Iterator<Item = Self> {
        fields.into_iter().filter_map(|field| {
            let (old, new) = (then.get(field), now.get(field));
            (!are_same(old, new)).then(|| Self {
                step: now.step,
                field: field.to_owned(),
                then: old,
                now: new,
                ulps: old
                    .zip(new)
                    .filter(|_| !COUNTS.contains(&field))
                    .and_then(|(old, new)| ulps(old, new)),
            })
        })
    }
}

/// NaN is NaN: records do not hold its bits.
pub fn are_same(then: Option<f64>, now: Option<f64>) -> bool {
    match (then, now) {
        (None, None) => true,
        (Some(then), Some(now)) => {
            (then as f32).to_bits() == (now as f32).to_bits() || (then.is_nan() && now.is_nan())
        }
        _ => false,
    }
}

/// How many numbers of f32 lie between two of them; `None` where one is no number.
pub fn ulps(a: f64, b: f64) -> Option<u64> {
    let order = |x: f64| {
        let bits = (x as f32).to_bits();
        let size = i64::from(bits & 0x7fff_ffff);
        if bits >> 31 == 1 { -size } else { size }
    };
    (a.is_finite() && b.is_finite()).then(|| order(a).abs_diff(order(b)))
}

/// JSON has no NaN and no Inf: their names, as in the records.
pub fn json_number(value: f64) -> serde_json::Value {
    match value {
        value if value.is_finite() => value.into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        _ => "NaN".into(),
    }
}

fn number_or_name<S: serde::Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    value.map(json_number).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_in_the_last_place_are_counted() {
        let next = |x: f32, by: u32| f64::from(f32::from_bits(x.to_bits() + by));
        assert_eq!(ulps(1.0, next(1.0, 3)), Some(3));
        assert_eq!(ulps(next(2.0, 1), 2.0), Some(1));
        let smallest = f64::from(f32::from_bits(1));
        assert_eq!(ulps(smallest, -smallest), Some(2));
        assert_eq!(ulps(f64::NAN, 1.0), None);
    }

    #[test]
    fn the_first_difference_is_found() {
        let then = Record::new(3).with("loss", 0.5).with("gradient_norm", f64::NAN);
        let same = then.clone().with("tokens_per_second", 9.0);
        let fields = ["loss", "gradient_norm"];
        assert_eq!(Difference::each(&then, &same, fields).next(), None);
        let other = same.with("loss", f64::from(f32::from_bits(0.5_f32.to_bits() - 1)));
        let found = Difference::each(&then, &other, fields).next().expect("another loss");
        assert_eq!((found.step, &*found.field, found.ulps), (3, "loss", Some(1)));
        let missing = Difference::each(&Record::new(3), &then, fields).next().expect("no loss");
        assert_eq!((missing.then, missing.now, missing.ulps), (None, Some(0.5), None));
        assert!(!are_same(Some(0.0), Some(-0.0)));
        let [none, one] = [0.0, 1.0].map(|count| Record::new(3).with("zero_count", count));
        let counted = Difference::each(&none, &one, ["zero_count"]).next().expect("another");
        assert_eq!(counted.ulps, None);
    }
}
