//! Bandwidths, as `tc` writes them.

use std::fmt;
use std::str::FromStr;

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

const UNITS: [(&str, u64); 3] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)];

/// What `tc` lets through at once: longer than the longest frame.
const LEAST_BURST: u64 = 32 << 10;

impl Rate {
    /// Bytes that may go at once: what comes together between two looks of the kernel.
    pub fn burst(self) -> u64 {
        let bytes_in_a_quarter_of_a_millisecond = self.0 / 8 / 4_000;
        bytes_in_a_quarter_of_a_millisecond.max(LEAST_BURST)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = UNITS.iter().find_map(|(unit, bits)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(*bits).filter(|&bits| bits > 0).map(Self)
        });
        known.ok_or_else(|| "a bandwidth is a whole number and kbit, mbit or gbit".to_owned())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, bits)| self.0.is_multiple_of(*bits));
        match whole {
            Some((unit, bits)) => write!(f, "{}{unit}", self.0 / bits),
            None => write!(f, "{}bit", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_read_and_written() {
        for (text, bits) in [("1gbit", 1_000_000_000), ("100mbit", 100_000_000), ("5kbit", 5_000)] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!((rate, rate.to_string()), (Rate(bits), text.to_owned()));
        }
        for text in ["", "1", "gbit", "0mbit", "1.5gbit", "-1gbit", "99999999999gbit", "1 gbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn bursts_hold_the_longest_frame() {
        assert_eq!(Rate(5_000).burst(), LEAST_BURST);
        assert_eq!(Rate(10_000_000_000).burst(), 312_500);
    }
}
