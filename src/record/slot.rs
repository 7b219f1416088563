//! Where a value lies.

use std::ops::Range;

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
    /// The first row of each part and where it lies, of a value that no binding holds; `buffer` and
    /// `offset` are those of the first.
    parts: Vec<(usize, Slot)>,
}

impl Slot {
    /// A slot at the start of a buffer, to be overwritten.
    pub fn new(buffer: wgpu::Buffer, shape: Shape) -> Self {
        Self::at(buffer, 0, shape)
    }

    /// A slot at this byte of a buffer, to be overwritten.
    pub fn at(buffer: wgpu::Buffer, offset: u64, shape: Shape) -> Self {
        Self { buffer, offset, shape, accumulate: false, parts: Vec::new() }
    }

    /// A slot of this shape whose rows lie in one or more others, one after the other.
    pub(crate) fn joined(shape: Shape, parts: Vec<Slot>) -> Self {
        let whole = Self { shape, ..parts[0].clone() };
        if parts.len() == 1 {
            return whole;
        }
        let mut first = 0;
        let parts = parts.into_iter().map(|part| {
            first += part.shape.dims[0];
            (first - part.shape.dims[0], part)
        });
        Self { parts: parts.collect(), ..whole }
    }

    /// Whether no binding holds the value: a parameter too large for the device, or its gradient.
    pub fn is_in_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The rows of a value as bindings hold them: for each part its first row and where it lies, in
    /// order. A row is an entry of the first dimension. Most values are their own only part.
    pub fn parts(&self) -> Vec<(usize, Slot)> {
        if self.parts.is_empty() {
            return vec![(0, self.clone())];
        }
        let told = |(first, part): &(usize, Slot)| {
            (*first, Slot { accumulate: self.accumulate, ..part.clone() })
        };
        self.parts.iter().map(told).collect()
    }

    /// Row `row` of a matrix, as a value of one dimension. Only for copies: its offset need not be
    /// one that a binding may have.
    pub fn row(&self, row: usize) -> Self {
        let shape = Shape { dims: vec![self.shape.cols()], ..self.shape.clone() };
        Self { offset: self.offset + row as u64 * shape.bytes(), shape, ..self.clone() }
    }

    /// Some of the rows, all leading dimensions taken as one. The first is a multiple of 64: there a
    /// binding may begin, whatever a row is.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        let row = self.shape.bytes() / self.shape.rows() as u64;
        self.range(&rows, row, vec![rows.len(), self.shape.cols()])
    }

    /// Some of the numbers of a vector of f32, or of any value of u32; the first as above.
    pub(crate) fn elements(&self, elements: Range<usize>) -> Self {
        self.range(&elements, 4, vec![elements.len()])
    }

    fn range(&self, range: &Range<usize>, bytes: u64, dims: Vec<usize>) -> Self {
        debug_assert!(self.parts.is_empty() && range.start.is_multiple_of(64), "{range:?}");
        let shape = Shape { dims, ..self.shape.clone() };
        Self { offset: self.offset + range.start as u64 * bytes, shape, ..self.clone() }
    }

    /// The bytes of this value, for a kernel's buffer.
    ///
    /// # Panics
    /// For a value [in parts](Self::is_in_parts): bind each of its [`parts`](Self::parts).
    #[track_caller]
    pub fn binding(&self) -> wgpu::BufferBinding<'_> {
        assert!(self.parts.is_empty(), "no binding holds {}: it lies in parts", self.shape);
        wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.offset,
            size: std::num::NonZeroU64::new(self.shape.bytes().next_multiple_of(16)),
        }
    }
}
