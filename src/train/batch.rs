//! What the host gives a step: named inputs, checked before anything is written.

use crate::error::{Error, Result};
use crate::graph::{Element, InputSpec};
use crate::kernels::IGNORE;

/// The elements of one input.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Real numbers, dense, row-major.
    Real(Vec<f32>),
    /// Token ids, labels or lengths.
    Tokens(Vec<u32>),
}

impl From<&[f32]> for Data {
    fn from(values: &[f32]) -> Self {
        Self::Real(values.to_vec())
    }
}

impl From<Vec<f32>> for Data {
    fn from(values: Vec<f32>) -> Self {
        Self::Real(values)
    }
}

impl From<&[u32]> for Data {
    fn from(tokens: &[u32]) -> Self {
        Self::Tokens(tokens.to_vec())
    }
}

impl From<Vec<u32>> for Data {
    fn from(tokens: Vec<u32>) -> Self {
        Self::Tokens(tokens)
    }
}

/// The inputs of one step. With gradient accumulation it holds all microbatches, one after the
/// other, in every input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    entries: Vec<(String, Data)>,
    length: Option<usize>,
}

impl Batch {
    /// No inputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input.
    #[must_use]
    pub fn with(mut self, name: &str, data: impl Into<Data>) -> Self {
        self.entries.push((name.to_owned(), data.into()));
        self
    }

    /// Says that its sequences are padded to this length, one of those of
    /// [`TrainerBuilder::lengths`](super::TrainerBuilder::lengths). Without it, they are of the
    /// longest.
    #[must_use]
    pub fn of_length(self, length: usize) -> Self {
        Self { length: Some(length), ..self }
    }

    /// This rank's share of a batch that has all microbatches of all [ranks](super::ranks): of each
    /// input, that part of `ranks` equal ones.
    ///
    /// # Errors
    /// [`Error::Data`] where an input has no equal parts.
    ///
    /// # Panics
    /// Unless `rank` is below `ranks`.
    pub fn of_rank(&self, rank: usize, ranks: usize) -> Result<Self> {
        assert!(rank < ranks, "rank {rank} of {ranks}");
        let share = |(name, data): &(String, Data)| {
            let count = match data {
                Data::Real(values) => values.len(),
                Data::Tokens(tokens) => tokens.len(),
            };
            if !count.is_multiple_of(ranks) {
                return Err(Error::Data {
                    what: format!("input {name:?} of {count} elements"),
                    reason: format!("{ranks} ranks have no equal parts of it"),
                });
            }
            let part = count / ranks * rank..count / ranks * (rank + 1);
            let data = match data {
                Data::Real(values) => Data::Real(values[part].to_vec()),
                Data::Tokens(tokens) => Data::Tokens(tokens[part].to_vec()),
            };
            Ok((name.clone(), data))
        };
        let entries = self.entries.iter().map(share).collect::<Result<_>>()?;
        Ok(Self { entries, length: self.length })
    }

    /// The length that its sequences are padded to, where it is said.
    pub fn length(&self) -> Option<usize> {
        self.length
    }

    /// The input as the device has it, for `microbatches` microbatches: bytes of each one after
    /// the other, rows padded to quads.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::InputType`], [`Error::InputSize`],
    /// [`Error::TokenOutOfRange`].
    pub(crate) fn bytes(&self, spec: &InputSpec, microbatches: usize) -> Result<Vec<u8>> {
        let name = &spec.name;
        let found = self.entries.iter().find(|(entry, _)| entry == name);
        let (_, data) = found.ok_or_else(|| Error::UnknownName {
            kind: "input in this batch",
            name: name.clone(),
            known: self.entries.iter().map(|(name, _)| &**name).collect::<Vec<_>>().join(", "),
        })?;
        let expected = spec.shape.count() * microbatches;
        let check_size = |actual: usize| {
            if actual == expected {
                return Ok(());
            }
            let shape = format!("({microbatches} microbatches of {})", spec.shape);
            Err(Error::InputSize { name: name.clone(), expected, actual, shape })
        };
        match (data, spec.shape.element) {
            (Data::Tokens(tokens), Element::U32) => {
                check_size(tokens.len())?;
                check_tokens(spec, tokens)?;
                Ok(bytemuck::cast_slice(tokens).to_vec())
            }
            (Data::Real(values), Element::Real | Element::F32) => {
                check_size(values.len())?;
                Ok(bytemuck::cast_slice(&spec.shape.pad(values)).to_vec())
            }
            (Data::Tokens(_), _) => Err(Error::InputType {
                name: name.clone(),
                expected: "real numbers (f32)",
                actual: "tokens (u32)",
            }),
            (Data::Real(_), _) => Err(Error::InputType {
                name: name.clone(),
                expected: "tokens (u32)",
                actual: "real numbers (f32)",
            }),
        }
    }
}

fn check_tokens(spec: &InputSpec, tokens: &[u32]) -> Result<()> {
    let Some(bound) = spec.bound else { return Ok(()) };
    let allowed = |&token: &u32| token < bound || (spec.ignorable && token == IGNORE);
    match tokens.iter().position(|token| !allowed(token)) {
        None => Ok(()),
        Some(position) => Err(Error::TokenOutOfRange {
            name: spec.name.clone(),
            position,
            token: tokens[position],
            bound,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Shape;

    fn spec(bound: Option<u32>) -> InputSpec {
        InputSpec { name: "tokens".into(), shape: Shape::u32([2, 3]), bound, ignorable: true }
    }

    #[test]
    fn a_batch_is_checked_before_it_is_written() {
        let good = Batch::new().with("tokens", vec![0, 1, 2, 3, 4, IGNORE]);
        assert_eq!(good.bytes(&spec(Some(5)), 1).unwrap().len(), 24);

        let error = good.bytes(&spec(Some(4)), 1).unwrap_err().to_string();
        assert!(error.contains("holds 4 at position 4") && error.contains("below 4"), "{error}");

        let strict = InputSpec { ignorable: false, ..spec(Some(5)) };
        let error = good.bytes(&strict, 1).unwrap_err().to_string();
        assert!(error.contains("at position 5; ids must be below 5"), "{error}");

        let error = good.bytes(&spec(None), 2).unwrap_err().to_string();
        assert!(error.contains("has 6 elements") && error.contains("12"), "{error}");

        let wrong = Batch::new().with("tokens", vec![0.0f32; 6]);
        let error = wrong.bytes(&spec(None), 1).unwrap_err().to_string();
        assert!(error.contains("expects tokens (u32)"), "{error}");

        let error = Batch::new().with("token", vec![0]).bytes(&spec(None), 1).unwrap_err();
        assert!(error.to_string().contains("known: token"), "{error}");
    }

    #[test]
    fn real_rows_are_padded() {
        let shape = Shape::real([2, 3]);
        let spec = InputSpec { name: "x".into(), shape, bound: None, ignorable: false };
        let bytes = Batch::new().with("x", vec![1.0f32; 12]).bytes(&spec, 2).unwrap();
        assert_eq!(bytes.len(), 4 * 16);
    }
}
