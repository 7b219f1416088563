//! Tensors that no binding holds: they lie in parts of whole rows, each of which one does.
//!
//! A row is here an entry of the first dimension, what one index of it selects. A part lies in a
//! segment as a whole tensor does, so whatever works element by element on the flat buffers knows
//! nothing of parts; it is the same tensor of the tensor table, with the same settings.

use std::ops::Range;

use super::layout::Location;
use crate::error::{Error, Result};
use crate::graph::{ParameterSpec, Shape};

/// Whole rows of a parameter, in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the parameter.
    pub tensor: usize,
    /// Which of its rows.
    pub rows: Range<usize>,
    /// Where they lie.
    pub location: Location,
}

impl Part {
    /// The shape of the part of a tensor of this shape.
    pub fn shape(&self, whole: &Shape) -> Shape {
        rows_of(whole, self.rows.len())
    }
}

/// The shape of so many rows of a tensor.
pub(crate) fn rows_of(whole: &Shape, rows: usize) -> Shape {
    let mut shape = whole.clone();
    shape.dims[0] = rows;
    shape
}

/// Rows of all parts but the last are a multiple of the first of these that fits: so that a part
/// ends where a partial sum along it does, or a tile of a matrix product, or at least a quad. Where
/// 256 rows fit, as of all but the widest, results have the bits of a tensor that is whole.
const MULTIPLES: [usize; 3] = [256, 64, 4];

/// The rows of each part of a parameter, where a binding holds `largest` bytes.
///
/// # Errors
/// [`Error::Limit`] for a vector that is too large, and where four rows are.
pub(super) fn divide(spec: &ParameterSpec, largest: u64) -> Result<Vec<Range<usize>>> {
    let (shape, bytes) = (&spec.shape, spec.shape.bytes());
    let rows = shape.dims[0];
    let is_vector = shape.dims.iter().filter(|&&size| size > 1).count() < 2;
    let every = |step: usize| {
        let firsts = (0..rows).step_by(step);
        Ok(firsts.map(|first| first..rows.min(first + step)).collect())
    };
    if bytes <= largest {
        return every(rows);
    }
    let fitting = (largest / (bytes / rows as u64)) as usize;
    let multiple = MULTIPLES.into_iter().find(|&multiple| multiple <= fitting);
    let Some(multiple) = multiple.filter(|_| shape.dims.len() > 1 && !is_vector) else {
        return Err(Error::Limit {
            what: format!("parameter {} of shape {shape}", spec.name),
            limit: "maxStorageBufferBindingSize (or maxBufferSize)",
            needed: bytes,
            available: largest,
            advice: "a tensor may be larger than a binding only where four entries of its first \
                     dimension fit in one; make its other dimensions smaller"
                .into(),
        });
    };
    every(fitting - fitting % multiple)
}

/// Why something cannot be done with a parameter in parts.
pub(crate) fn unsupported(what: &str, parameter: &str, instead: &str) -> Error {
    Error::Unsupported {
        what: format!(
            "{what} with the parameter {parameter}, which is larger than a binding of this device \
             (maxStorageBufferBindingSize) and lies in parts,"
        ),
        instead: instead.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Init;
    use proptest::prelude::*;

    fn spec(dims: &[usize]) -> ParameterSpec {
        let shape = Shape::real(dims);
        ParameterSpec {
            name: "table".into(),
            shape,
            init: Init::ZERO,
            stream: 0,
            requires_grad: true,
        }
    }

    #[test]
    fn a_table_that_no_binding_holds_is_divided_by_rows() {
        let gpt2 = divide(&spec(&[50_257, 768]), 128 << 20).expect("two parts");
        assert_eq!(gpt2, [0..43_520, 43_520..50_257]);
        let whole = divide(&spec(&[1000, 32]), 1000 * 128).expect("it fits");
        assert_eq!((whole.len(), whole[0].clone()), (1, 0..1000));
        assert_eq!(
            divide(&spec(&[1000, 32]), 1000 * 128 - 1).expect("two parts"),
            [0..768, 768..1000]
        );
        // 255 rows, 63 rows, 15 rows.
        assert_eq!(divide(&spec(&[300, 4]), 255 * 16).expect("parts"), [0..192, 192..300]);
        assert_eq!(divide(&spec(&[64, 4]), 63 * 16).expect("parts"), [0..60, 60..64]);
        assert_eq!(divide(&spec(&[16, 4]), 15 * 16).expect("parts"), [0..12, 12..16]);
    }

    #[test]
    fn what_cannot_be_divided_is_named() {
        for dims in [&[1000][..], &[1000, 1], &[1, 1000], &[9, 400]] {
            let error = divide(&spec(dims), 3999).expect_err("too large").to_string();
            assert!(error.contains("parameter table of shape"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn parts_fit_and_follow_each_other(
            rows in 1usize..3000, cols in 1usize..40, largest in 16u64..100_000
        ) {
            let spec = spec(&[rows, cols]);
            let Ok(parts) = divide(&spec, largest) else { return Ok(()) };
            let mut next = 0;
            for part in &parts {
                prop_assert_eq!(part.start, next);
                prop_assert!(!part.is_empty() && part.start % 4 == 0);
                prop_assert!(rows_of(&spec.shape, part.len()).bytes() <= largest);
                next = part.end;
            }
            prop_assert_eq!(next, rows);
        }
    }
}
