//! How large values are, before they lie anywhere.

use crate::gpu::MemoryLimits;
use crate::kernel::Precision;
use crate::shape::Shape;

/// How large a value is: what a [`Slot`](super::Slot) says of it, but where.
#[derive(Clone, Debug, PartialEq)]
pub struct Extent {
    /// Shape of the value.
    pub shape: Shape,
    /// Rows of each part, entries of the first dimension, of a value that no binding holds; else
    /// empty.
    pub part_rows: Vec<usize>,
}

impl Extent {
    /// Of a value that a binding holds.
    pub fn whole(shape: Shape) -> Self {
        Self { shape, part_rows: Vec::new() }
    }

    /// Whether no binding holds the value.
    pub fn is_in_parts(&self) -> bool {
        !self.part_rows.is_empty()
    }

    /// The shapes of the parts. Most values are their own only part.
    pub fn parts(&self) -> Vec<Shape> {
        if self.part_rows.is_empty() {
            return vec![self.shape.clone()];
        }
        let part = |&rows: &usize| {
            let mut shape = self.shape.clone();
            shape.dims[0] = rows;
            shape
        };
        self.part_rows.iter().map(part).collect()
    }
}

/// What the dispatches of an operation depend on beside its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes that a binding may have.
    pub largest_binding: u64,
    /// Whether matrix products go through workgroup memory:
    /// [`Recorder::tiled_products`](super::Recorder::tiled_products).
    pub tiled_products: bool,
}

impl Machine {
    /// Of a device, for operations in `precision`.
    pub fn new(limits: MemoryLimits, native_f16: bool, precision: Precision) -> Self {
        Self {
            largest_binding: limits.largest_binding,
            tiled_products: tiled_products(limits.is_software, native_f16, precision),
        }
    }
}

/// Matrix products go through workgroup memory on hardware, and where they multiply in f16.
pub(super) fn tiled_products(is_software: bool, native_f16: bool, precision: Precision) -> bool {
    !is_software || (native_f16 && precision == Precision::F16)
}
