//! Rounds of DiLoCo, as they are asked for and described.

use clap::ValueEnum;
use evenkeel::train::ranks::{DiLoCoSettings, DifferenceEncoding, Round};
use evenkeel::{Error, Result};
use serde::{Deserialize, Serialize};

/// How differences go over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DifferenceFormat {
    /// 4 bytes for each weight, exact
    F32,
    /// 2 bytes
    F16,
    /// 1 byte, and a scale for each 256
    Int8,
}

impl From<DifferenceFormat> for DifferenceEncoding {
    fn from(format: DifferenceFormat) -> Self {
        match format {
            DifferenceFormat::F32 => Self::F32,
            DifferenceFormat::F16 => Self::F16,
            DifferenceFormat::Int8 => Self::Int8,
        }
    }
}

impl From<DifferenceEncoding> for DifferenceFormat {
    fn from(encoding: DifferenceEncoding) -> Self {
        match encoding {
            DifferenceEncoding::F32 => Self::F32,
            DifferenceEncoding::F16 => Self::F16,
            DifferenceEncoding::Int8 => Self::Int8,
        }
    }
}

/// What options say of rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub steps: Option<u64>,
    pub learning_rate: Option<f64>,
    pub momentum: Option<f64>,
    pub format: Option<DifferenceFormat>,
    /// Whether moments are to be in parts.
    pub shards_optimizer: bool,
}

impl Asked {
    /// The settings, with the paper's defaults; `None` for a run without rounds.
    ///
    /// # Errors
    /// [`Error::Setting`] and [`Error::Unsupported`] name the option.
    pub fn settings(self) -> Result<Option<DiLoCoSettings>> {
        let Self { steps, learning_rate, momentum, format, shards_optimizer } = self;
        let Some(inner_steps) = steps else {
            let others = learning_rate.is_some() || momentum.is_some() || format.is_some();
            let instead = "give --diloco-steps, too: the steps between two rounds";
            return match others {
                true => refuse("an option of DiLoCo without rounds", instead),
                false => Ok(None),
            };
        };
        let default = DiLoCoSettings::default();
        let encoding = format.map_or(default.encoding, DifferenceEncoding::from);
        let learning_rate = learning_rate.unwrap_or(default.learning_rate);
        let momentum = momentum.unwrap_or(default.momentum);
        let check = |setting, value: String, fits, range| {
            if fits { Ok(()) } else { Err(Error::Setting { setting, value, range }) }
        };
        let fits = (1..=10_000_000).contains(&inner_steps);
        let range = "at least 1 and at most 10 million";
        check("--diloco-steps", inner_steps.to_string(), fits, range)?;
        let fits = learning_rate.is_finite() && learning_rate > 0.0;
        check("--diloco-lr", learning_rate.to_string(), fits, "finite and above 0")?;
        let fits = (0.0..1.0).contains(&momentum);
        check("--diloco-momentum", momentum.to_string(), fits, "at least 0 and below 1")?;
        if shards_optimizer {
            let instead = "leave one out: a rank that takes steps by itself needs all moments";
            return refuse("--shard-optimizer with --diloco-steps", instead);
        }
        Ok(Some(DiLoCoSettings { inner_steps, learning_rate, momentum, encoding, ..default }))
    }
}

fn refuse<T>(what: &str, instead: &str) -> Result<T> {
    Err(Error::Unsupported { what: what.to_owned(), instead: instead.to_owned() })
}

/// The outer optimizer, and what it takes of the host, for so many trained parameters.
pub fn outer(diloco: &DiLoCoSettings, parameters: usize) -> String {
    let each = if diloco.encoding == DifferenceEncoding::F32 { 8 } else { 12 };
    let format = DifferenceFormat::from(diloco.encoding).to_possible_value();
    format!(
        "a round every {} steps: learning rate {}, momentum {}, differences in {}; {:.1} MiB of the \
         host's memory",
        diloco.inner_steps,
        diloco.learning_rate,
        diloco.momentum,
        format.as_ref().map_or("", |format| format.get_name()),
        (each * parameters) as f64 / f64::from(1 << 20)
    )
}

/// What a round has come to, in one line.
pub fn told(round: &Round) -> String {
    let Round { number, steps, norms, left_out, .. } = round;
    let norms = norms.iter().map(|norm| match norm {
        Some(norm) => format!("{norm:.3e}"),
        None => "not finite".to_owned(),
    });
    let moved = norms.collect::<Vec<_>>().join(", ");
    let without: String = left_out.iter().map(|left_out| format!("; {left_out}")).collect();
    format!("round {number}, after {steps} steps: ranks moved by {moved}{without}")
}

#[cfg(test)]
mod tests {
    use evenkeel::train::ranks::{LeftOut, Why};

    use super::*;

    #[test]
    fn rounds_are_told_with_who_was_left_out() {
        let round = Round {
            number: 3,
            steps: 20,
            norms: vec![Some(0.5), None],
            counted: vec![0],
            left_out: vec![LeftOut { rank: 1, why: Why::NotFinite { tensor: "w".into() } }],
            bytes_sent: 0,
            emptied: Vec::new(),
        };
        let told = told(&round);
        let head = "round 3, after 20 steps: ranks moved by 5.000e-1, not finite; rank 1 was left \
                    out: its w is NaN";
        assert!(told.starts_with(head), "{told}");
    }

    #[test]
    fn what_is_not_said_is_the_papers() {
        let asked = Asked { steps: Some(500), ..Asked::default() };
        let settings = asked.settings().expect("good ones").expect("rounds");
        assert_eq!(settings, DiLoCoSettings::default());
        let outer = outer(&settings, 1 << 20);
        assert!(outer.ends_with("in f16; 12.0 MiB of the host's memory"), "{outer}");
        assert!(Asked::default().settings().expect("nothing").is_none());
        for (asked, part) in [
            (Asked { steps: Some(0), ..asked }, "--diloco-steps is 0"),
            (Asked { steps: None, momentum: Some(0.5), ..asked }, "give --diloco-steps"),
            (Asked { learning_rate: Some(f64::NAN), ..asked }, "--diloco-lr is NaN"),
            (Asked { momentum: Some(1.0), ..asked }, "--diloco-momentum is 1"),
            (Asked { shards_optimizer: true, ..asked }, "--shard-optimizer with --diloco-steps"),
        ] {
            let told = asked.settings().expect_err("no good ones").to_string();
            assert!(told.contains(part), "{part:?} is missing in {told}");
        }
    }
}
