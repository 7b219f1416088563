//! Whether there is room on a disk.

use std::path::Path;

use crate::error::{Error, Result};

/// Makes sure that so many bytes have room where a folder is, which must be there. `option` chooses
/// another, for the error.
///
/// # Errors
/// [`Error::File`]. None where the system does not say how much room there is.
pub fn check_space(folder: &Path, bytes: u64, option: &str) -> Result<()> {
    match fs4::available_space(folder) {
        Ok(available) if available < bytes => Err(Error::File {
            path: folder.to_owned(),
            reason: format!(
                "{} are to be written, and there is room for {} on this disk; choose another with \
                 {option}",
                amount(bytes),
                amount(available)
            ),
        }),
        _ => Ok(()),
    }
}

/// Bytes as a person reads them.
pub fn amount(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / f64::from(1u32 << shift)),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_too_small_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        check_space(folder.path(), 1, "--out").expect("room for a byte");
        let error = check_space(folder.path(), u64::MAX, "--out").expect_err("no such disk");
        let (error, path) = (error.to_string(), folder.path().display().to_string());
        assert!(error.contains(&path) && error.contains("with --out"), "{error}");
    }

    #[test]
    fn amounts_have_units() {
        let expected = ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 MiB", "5.0 GiB"];
        let bytes = [0, 1023, 1024, 3 << 19, 5 << 30];
        assert_eq!(bytes.map(amount), expected);
    }
}
