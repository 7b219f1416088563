//! Where a value lies.

use crate::shape::Shape;

/// Where a value lies on the device. A clone is the same place, not another value.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    /// First byte.
    pub offset: u64,
    /// Shape of the value.
    pub shape: Shape,
    /// Set where an output is to be added to what the slot holds: the gradient of a parameter
    /// after the first contribution, a staged state after the first microbatch.
    pub accumulate: bool,
}

impl Slot {
    /// A slot at the start of a buffer, to be overwritten.
    pub fn new(buffer: wgpu::Buffer, shape: Shape) -> Self {
        Self { buffer, offset: 0, shape, accumulate: false }
    }

    /// Row `row` of a matrix, as a value of one dimension. Only for copies: its offset need not be
    /// one that a binding may have.
    pub fn row(&self, row: usize) -> Self {
        let shape = Shape { dims: vec![self.shape.cols()], ..self.shape.clone() };
        Self { offset: self.offset + row as u64 * shape.bytes(), shape, ..self.clone() }
    }

    /// The bytes of this value, for a kernel's buffer.
    pub fn binding(&self) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.offset,
            size: std::num::NonZeroU64::new(self.shape.bytes().next_multiple_of(16)),
        }
    }
}
