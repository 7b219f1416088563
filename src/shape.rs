//! Shapes and how they lie in memory: the last dimension in quads, everything before it rows.

use std::fmt;

use crate::kernel::{BlockFormat, Precision};

/// What the elements of a value are, and how they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Activations and weights: quads of the storage precision.
    Real,
    /// Statistics, losses and gradients of parameters: f32 whatever the storage precision.
    F32,
    /// Token ids, class labels, lengths: u32.
    U32,
    /// Frozen weights in blocks along their rows, which have a multiple of 32 columns.
    Block(BlockFormat),
}

/// Dimensions and element type of a value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Outermost first; never empty.
    pub dims: Vec<usize>,
    /// The element type.
    pub element: Element,
    /// How real elements are stored; [`Precision::F32`] for the others.
    pub precision: Precision,
}

impl Shape {
    /// A shape of [`Element::Real`].
    #[track_caller]
    pub fn real(dims: impl Into<Vec<usize>>) -> Self {
        Self::new(dims, Element::Real)
    }

    /// A shape of [`Element::F32`].
    #[track_caller]
    pub fn f32(dims: impl Into<Vec<usize>>) -> Self {
        Self::new(dims, Element::F32)
    }

    /// A shape of [`Element::U32`].
    #[track_caller]
    pub fn u32(dims: impl Into<Vec<usize>>) -> Self {
        Self::new(dims, Element::U32)
    }

    /// A shape of [`Element::Block`].
    ///
    /// # Panics
    /// Unless rows are made of whole blocks.
    #[track_caller]
    pub fn blocks(dims: impl Into<Vec<usize>>, format: BlockFormat) -> Self {
        let shape = Self::new(dims, Element::Block(format));
        let whole = shape.cols().is_multiple_of(BlockFormat::ELEMENTS);
        assert!(whole, "rows of {shape} are no multiple of {} long", BlockFormat::ELEMENTS);
        shape
    }

    #[track_caller]
    fn new(dims: impl Into<Vec<usize>>, element: Element) -> Self {
        let dims = dims.into();
        assert!(!dims.is_empty(), "a shape has at least one dimension");
        assert!(dims.iter().all(|&d| d > 0), "a dimension of {dims:?} is zero");
        Self { dims, element, precision: Precision::F32 }
    }

    /// The same dimensions with another element type, in f32.
    pub fn with(&self, element: Element) -> Self {
        Self { dims: self.dims.clone(), element, precision: Precision::F32 }
    }

    /// The same with real elements stored in the given precision.
    pub fn stored_as(&self, precision: Precision) -> Self {
        match self.element {
            Element::Real => Self { precision, ..self.clone() },
            _ => self.clone(),
        }
    }

    /// The blocks that its elements lie in, if they do.
    pub fn block_format(&self) -> Option<BlockFormat> {
        match self.element {
            Element::Block(format) => Some(format),
            _ => None,
        }
    }

    /// Blocks in a row of elements that lie in blocks.
    pub fn row_blocks(&self) -> usize {
        self.cols() / BlockFormat::ELEMENTS
    }

    /// Number of elements, without padding.
    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// The last dimension.
    pub fn cols(&self) -> usize {
        self.dims[self.dims.len() - 1]
    }

    /// The product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.dims[..self.dims.len() - 1].iter().product()
    }

    /// Quads in a row: the last dimension padded to a multiple of four.
    pub fn row_quads(&self) -> usize {
        self.cols().div_ceil(4)
    }

    /// Quads in all rows.
    pub fn quads(&self) -> usize {
        self.rows() * self.row_quads()
    }

    /// Bytes on the device. Real and f32 rows are padded to quads, u32 and blocks are dense.
    pub fn bytes(&self) -> u64 {
        match self.element {
            Element::Real | Element::F32 => self.quads() as u64 * self.precision.quad_bytes(),
            Element::U32 => self.count() as u64 * 4,
            Element::Block(format) => format.device_bytes(self.rows() * self.row_blocks()),
        }
    }

    /// Dense host values to the device's layout.
    pub fn pad(&self, dense: &[f32]) -> Vec<f32> {
        let mut padded = Vec::with_capacity(self.quads() * 4);
        for row in dense.chunks(self.cols()) {
            padded.extend_from_slice(row);
            padded.resize(padded.len().next_multiple_of(4), 0.0);
        }
        padded
    }

    /// The device's layout to dense host values.
    pub fn unpad(&self, padded: &[f32]) -> Vec<f32> {
        let rows = padded.chunks(self.row_quads() * 4);
        rows.flat_map(|row| &row[..self.cols()]).copied().collect()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<_> = self.dims.iter().map(usize::to_string).collect();
        write!(f, "({})", dims.join(", "))?;
        match self.element {
            Element::Real if self.precision == Precision::F32 => Ok(()),
            Element::Real => write!(f, " {}", self.precision),
            Element::F32 => write!(f, " f32"),
            Element::U32 => write!(f, " u32"),
            Element::Block(format) => write!(f, " {format}"),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_quads() {
        let shape = Shape::real([2, 3]);
        assert_eq!((shape.quads(), shape.bytes()), (2, 32));
        let padded = shape.pad(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(padded, [1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0, 0.0]);
        assert_eq!(shape.unpad(&padded), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(Shape::u32([2, 3]).bytes(), 24);
        assert_eq!(Shape::f32([5]).to_string(), "(5) f32");
        let half = shape.stored_as(Precision::F16);
        assert_eq!((half.bytes(), half.to_string().as_str()), (16, "(2, 3) f16"));
        // 15 blocks of 18 bytes, and 2 to a whole word.
        let blocks = Shape::blocks([5, 96], BlockFormat::Q4_0);
        assert_eq!((blocks.bytes(), blocks.to_string().as_str()), (272, "(5, 96) Q4_0"));
    }
}
