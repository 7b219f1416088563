//! What a run may take.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time, or tokens to learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    Time(Duration),
    Tokens(u64),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number = digits.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
        let known = "it is a time such as 90s, 30m, 2h or 1d, or a count of tokens such as \
                     20000000, 20M or 1B";
        let number = number.ok_or_else(|| known.to_owned())?;
        let time = |seconds: f64| {
            let time = Duration::try_from_secs_f64(number * seconds);
            time.map(Self::Time).map_err(|_| known.to_owned())
        };
        let tokens = |each: f64| Ok(Self::Tokens(((number * each).round() as u64).max(1)));
        match &text[digits.len()..] {
            "s" => time(1.0),
            "m" => time(60.0),
            "h" => time(3600.0),
            "d" => time(86_400.0),
            "" => tokens(1.0),
            "k" | "K" => tokens(1e3),
            "M" => tokens(1e6),
            "B" | "G" => tokens(1e9),
            _ => Err(known.to_owned()),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "{}s", time.as_secs_f64()),
            Self::Tokens(tokens) => write!(f, "{tokens}"),
        }
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a time such as 30m or a count of tokens")]
        enum Given {
            Count(u64),
            Text(String),
        }
        match Given::deserialize(from)? {
            Given::Count(tokens) => tokens.to_string().parse(),
            Given::Text(text) => text.parse(),
        }
        .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_tokens_are_told_apart() {
        let of = |text: &str| text.parse::<Budget>();
        assert_eq!(of("30m"), Ok(Budget::Time(Duration::from_secs(1800))));
        assert_eq!(of("1.5h"), Ok(Budget::Time(Duration::from_secs(5400))));
        assert_eq!(of("30M"), Ok(Budget::Tokens(30_000_000)));
        assert_eq!(of("5000"), Ok(Budget::Tokens(5000)));
        for text in ["", "m", "-3m", "3 weeks", "nan", "0", "1e999"] {
            assert!(of(text).is_err(), "{text}");
        }
        for budget in [Budget::Time(Duration::from_millis(2500)), Budget::Tokens(7)] {
            assert_eq!(budget.to_string().parse(), Ok(budget));
        }
    }
}
