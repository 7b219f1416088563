//! What an error means for whoever started the program.

use crate::error::Error;

/// The exit code of a program that an error ended.
///
/// | code | meaning |
/// |---|---|
/// | 0 | all was done |
/// | 1 | all was done, and something is wrong with what came out: an output that could not be written, a result below what was asked for |
/// | 2 | the command line is not understood |
/// | 3 | bad input: a file, a setting, data, or a combination that is not there |
/// | 4 | it does not fit: memory, or a limit of the device |
/// | 5 | training gave up: numbers that are not finite and do not go away |
/// | 6 | no device, or it was lost and not regained |
/// | 128 + n | signal n asked to stop; what was done until then is saved |
#[must_use]
pub fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Output { .. } => 1,
        Error::Limit { .. } | Error::OutOfMemory { .. } => 4,
        Error::NonFiniteGradient { .. }
        | Error::NonFiniteLoss { .. }
        | Error::NonFiniteState { .. }
        | Error::GaveUp { .. } => 5,
        Error::NoAdapter { .. }
        | Error::NoDevice { .. }
        | Error::DeviceLost { .. }
        | Error::NotRegained { .. } => 6,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let reason = || "a reason".to_owned();
        let of = |error| exit_code(&error);
        assert_eq!(of(Error::NoAdapter { reason: reason() }), 6);
        assert_eq!(of(Error::DeviceLost { reason: reason() }), 6);
        assert_eq!(of(Error::NotRegained { reason: reason() }), 6);
        assert_eq!(of(Error::Data { what: reason(), reason: reason() }), 3);
        assert_eq!(of(Error::OutOfMemory { what: reason(), bytes: 1, advice: reason() }), 4);
        assert_eq!(of(Error::NonFiniteGradient { step: 1, count: 1 }), 5);
        let file = || Error::File { path: "a".into(), reason: reason() };
        assert_eq!((of(file()), of(file().into_output())), (3, 1));
        assert_eq!(of(Error::NoAdapter { reason: reason() }.into_output()), 6);
    }
}
