//! Numbers as text: exact ones for files, short ones for people.

use std::fmt::Write;

/// Integers below this are exact in f64.
const EXACT: f64 = (1_u64 << 53) as f64;

/// The shortest digits that give the same number again: read as f32 where it is one (most values
/// come from the device as f32), as f64 otherwise. `None` for NaN and Inf.
pub fn exact(value: f64) -> Option<String> {
    if !value.is_finite() {
        return None;
    }
    let plain = value == 0.0 || (1e-5..1e16).contains(&value.abs());
    let single = value as f32;
    let is_single = f64::from(single).to_bits() == value.to_bits();
    // The shortest digits of a large f32 are another integer.
    let is_integer = value.fract() == 0.0 && value.abs() < EXACT;
    Some(match (is_single && !is_integer, plain) {
        (true, true) => single.to_string(),
        (true, false) => format!("{single:e}"),
        (false, true) => value.to_string(),
        (false, false) => format!("{value:e}"),
    })
}

/// NaN, Infinity or -Infinity: names that Python's `float`, JavaScript's `Number` and Rust's
/// `parse` all read.
pub fn nonfinite_name(value: f64) -> &'static str {
    match value {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// Four significant digits at most, whatever the size, in few characters.
pub fn brief(value: f64) -> String {
    if !value.is_finite() {
        return nonfinite_name(value).to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e7).contains(&size) {
        let (digits, exponent) = {
            let text = format!("{value:.3e}");
            let (digits, exponent) = text.split_once('e').expect("scientific notation");
            (trim(digits.to_owned()), exponent.to_owned())
        };
        return format!("{digits}e{exponent}");
    }
    if size >= 1000.0 {
        return grouped(value);
    }
    let decimals = if size == 0.0 { 0 } else { (3 - size.log10().floor() as i32).max(0) as usize };
    let text = trim(format!("{value:.decimals$}"));
    // 999.96 has four digits as 1000.
    if text.len() > 3 && !text.contains('.') { grouped(value) } else { text }
}

/// An integer with a comma before every three digits.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    if value < 0.0 && digits != "0" {
        text.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        write!(text, "{digit}").expect("a string takes everything");
    }
    text
}

/// A share as per cent.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let decimals = match percent {
        0.0 => 0,
        small if small < 1.0 => 2,
        _ => 1,
    };
    format!("{percent:.decimals$} %")
}

fn trim(digits: String) -> String {
    if !digits.contains('.') {
        return digits;
    }
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn brief_numbers_have_four_digits() {
        for (value, text) in [
            (0.0, "0"),
            (-0.5, "-0.5"),
            (2.833_21, "2.833"),
            (0.012_345_6, "0.01235"),
            (999.96, "1,000"),
            (65_536.0, "65,536"),
            (-1_234.4, "-1,234"),
            (1.5e-7, "1.5e-7"),
            (123_456_789.0, "1.235e8"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(brief(value), text);
        }
        assert_eq!(percent(0.1), "10.0 %");
        assert_eq!(percent(0.000_5), "0.05 %");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(grouped(-0.2), "0");
    }

    #[test]
    fn exact_numbers_are_read_back() {
        let mut bits = 1_u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let single = f32::from_bits(bits);
            if let Some(text) = exact(single.into()) {
                assert_eq!(text.parse::<f32>().unwrap().to_bits(), bits, "{text}");
            }
            let double = f64::from_bits(u64::from(bits) << 32 | u64::from(!bits));
            if let Some(text) = exact(double) {
                assert_eq!(text.parse::<f64>().unwrap().to_bits(), double.to_bits(), "{text}");
            }
        }
        for (value, text) in [
            (f64::from(0.1_f32), "0.1"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (123_456_792.0, "123456792"),
            (4_294_967_295.0, "4294967295"),
            (f64::from(1e-7_f32), "1e-7"),
            (1e300, "1e300"),
        ] {
            assert_eq!(exact(value).as_deref(), Some(text));
        }
    }
}
