//! What a dispatch has to do: the bytes that it must move, and the arithmetic of its products.

use std::iter::Sum;
use std::ops::Add;

use super::declaration::{Access, AnyKernel, Declaration};

/// What a dispatch has to do, as its declaration and parameters have it.
///
/// Bytes are those of the buffers it is bound to, each element once: what must be moved by a kernel
/// that goes through all of them, whatever caches do. Buffers that hold what a kernel adds to, and
/// weights and moments of an optimizer, are read and written. Of a table, a gather reads no more
/// than it gives, and nothing of a bias that is not there, nor of the argument of an activation that
/// is not. A kernel that leaves out a part of what it is bound to, such as a policy that does not act
/// in this step, moves less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Multiplications and additions of matrix products, those of attention among them where it has
    /// no cache; what other kernels calculate is not counted.
    pub operations: u64,
}

impl Work {
    /// Bytes read and written.
    pub fn bytes(self) -> u64 {
        self.read_bytes + self.written_bytes
    }

    pub(crate) fn of(kernel: &AnyKernel<'_>) -> Self {
        let declaration = kernel.declaration;
        let field = |name: &str| field(declaration, kernel.uniform, name);
        let constant = |name: &str| {
            let mut constants = declaration.overrides.iter().zip(&kernel.overrides);
            constants.find(|(own, _)| **own == name).map(|(_, value)| *value)
        };
        let is_update = declaration.has_fragment("update_frame") || field("accumulate") == Some(1);
        let bound = || declaration.buffers.iter().zip(&kernel.buffers);
        let bytes = |access| {
            let of = bound().filter(move |((_, own), _)| *own == access);
            of.map(|((name, _), binding)| (*name, bound_bytes(binding)))
        };
        let written_bytes = bytes(Access::Write).map(|(_, bytes)| bytes).sum();
        let read = bytes(Access::Read).map(|(name, bytes)| match name {
            "table" => bytes.min(written_bytes),
            "pre_activation" if constant("activation") == Some(0) => 0,
            _ if field(&format!("has_{name}")) == Some(0) => 0,
            _ => bytes,
        });
        let read_bytes = read.sum::<u64>() + if is_update { written_bytes } else { 0 };
        Self { read_bytes, written_bytes, operations: operations(declaration, field) }
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            read_bytes: self.read_bytes + other.read_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
            operations: self.operations + other.operations,
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// Bytes of a binding.
fn bound_bytes(binding: &wgpu::BufferBinding<'_>) -> u64 {
    binding.size.map_or(binding.buffer.size() - binding.offset, u64::from)
}

/// An integer of the uniform block.
fn field(declaration: &Declaration, uniform: &[u8], name: &str) -> Option<u64> {
    let field = declaration.uniform.iter().find(|f| f.name == name && f.ty == "u32")?;
    let bytes = uniform.get(field.offset..field.offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().expect("four bytes")).into())
}

/// Kernels whose uniform has `rows`, `cols` and `inner` multiply matrices: a multiplication and an
/// addition for each term of each element. Kernels whose uniform has `head_quads` attend: each
/// position to itself and to those before it, `window` in all, with a number of products per pair
/// that the kernel's name tells.
fn operations(declaration: &Declaration, field: impl Fn(&str) -> Option<u64>) -> u64 {
    let product = |names: &[&str]| names.iter().map(|name| field(name)).product::<Option<u64>>();
    if let Some(terms) = product(&["rows", "cols", "inner"]) {
        return 2 * terms * field("batch").unwrap_or(1);
    }
    let Some(heads) = product(&["batch", "heads", "head_quads"]) else { return 0 };
    let time = field("time").unwrap_or(0);
    let triangle = |n: u64| n * (n + 1) / 2;
    let unseen = triangle(time.saturating_sub(field("window").unwrap_or(time)));
    let term_operations = 2 * 4 * heads * (triangle(time) - unseen);
    products_per_pair(declaration.name) * term_operations
}

/// Forward q·k and p·v; backward q·k and do·v again, then ds·k for the queries, or ds·q and p·do
/// for keys and values. How many keys are in a cache only the device knows.
fn products_per_pair(kernel: &str) -> u64 {
    match kernel {
        _ if !kernel.starts_with("attention") => 0,
        _ if kernel.contains("backward_query") => 3,
        _ if kernel.contains("backward_key_value") => 4,
        _ if kernel.contains("backward") => 5,
        _ if kernel.ends_with("delta") || kernel.ends_with("cached") => 0,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;
    use crate::kernels::{
        self, AttentionBackwardKeyValue, AttentionBackwardKeyValueParams, MatmulTransposedA,
        MatmulTransposedAParams,
    };

    fn operations_of<K: Kernel>(uniform: &[u8]) -> u64 {
        operations(&K::DECLARATION, |name| field(&K::DECLARATION, uniform, name))
    }

    #[test]
    fn products_count_every_multiplication_and_addition() {
        let params =
            MatmulTransposedAParams { batch: 3, ..MatmulTransposedAParams::dense(5, 7, 11) };
        let mut counted = 0;
        for _ in (0..3).flat_map(|_| 0..5).flat_map(|_| 0..7).flat_map(|_| 0..11) {
            counted += 2;
        }
        assert_eq!(operations_of::<MatmulTransposedA>(bytemuck::bytes_of(&params)), counted);
    }

    #[test]
    fn attention_counts_the_pairs_that_see_each_other() {
        let (batch, time, heads, kv_heads, head_quads) = (2, 9, 6, 3, 5);
        for window in [1, 4, 9] {
            let params = AttentionBackwardKeyValueParams {
                batch,
                time,
                heads,
                kv_heads,
                head_quads,
                scale: 1.0,
                soft_cap: 0.0,
                window,
            };
            let seen = |query: u32| (0..=query).filter(move |key| query - key < window);
            let pairs = (0..time).flat_map(seen).count() as u64;
            let products = 4 * pairs * u64::from(batch * heads);
            let expected = products * 2 * 4 * u64::from(head_quads);
            let counted = operations_of::<AttentionBackwardKeyValue>(bytemuck::bytes_of(&params));
            assert_eq!(counted, expected, "window {window}");
        }
    }

    /// By the names of their fields: a kernel that joins one of these families must have them.
    #[test]
    fn every_kernel_that_multiplies_is_known() {
        let ones = |declaration: &Declaration| {
            let fields = declaration.uniform.iter();
            operations(declaration, |name| fields.clone().find(|f| f.name == name).map(|_| 1)) > 0
        };
        let counted = kernels::all().filter(|declaration| ones(declaration));
        let counted: Vec<_> = counted.map(|declaration| declaration.name).collect();
        for (family, declarations) in kernels::FAMILIES {
            for name in declarations.iter().map(|declaration| declaration.name) {
                let expected = match *family {
                    "matmul" => true,
                    "attention" => name != "attention_delta" && name != "causal_softmax",
                    _ => false,
                };
                assert_eq!(counted.contains(&name), expected, "{name}");
            }
        }
    }
}
