//! The hidden matrices among the tensors, in batches of one shape.

use super::Muon;
use super::orthogonalize::Batch;
use crate::graph::ParameterSpec;
use crate::record::to_u32;
use crate::train::optimizers::SegmentTensor;

/// The most quads that matrices orthogonalised together have: 32 MiB, which bounds the scratch.
/// A larger matrix is alone.
const BATCH_QUADS: u32 = 2 << 20;

/// Whether a tensor is a hidden matrix by its shape and name: it has two dimensions, and no part of
/// its dotted name is `head` or `lm_head` or contains `embedding`.
pub fn is_hidden_matrix(spec: &ParameterSpec) -> bool {
    let outer = |part: &str| part == "head" || part == "lm_head" || part.contains("embedding");
    spec.shape.dims.len() == 2 && !spec.name.split('.').any(outer)
}

impl Muon {
    /// The hidden matrices in batches, and all other tensors.
    pub(super) fn divide<'t>(
        &self,
        tensors: &[SegmentTensor<'t>],
    ) -> (Vec<Batch<'t>>, Vec<SegmentTensor<'t>>) {
        let (mut batches, mut others) = (Vec::<Batch<'t>>::new(), Vec::new());
        for tensor in tensors {
            let dims = &tensor.spec.shape.dims;
            if dims.len() != 2 || tensor.quads() == 0 || !(self.hidden)(tensor.spec) {
                others.push(*tensor);
                continue;
            }
            let (rows, cols) = (to_u32(dims[0]), to_u32(dims[1]));
            let fits = |batch: &&mut Batch<'_>| {
                (batch.rows, batch.cols) == (rows, cols)
                    && batch.quads() + batch.matrix_quads() <= BATCH_QUADS
            };
            match batches.iter_mut().find(fits) {
                Some(batch) => batch.tensors.push(*tensor),
                None => batches.push(Batch { rows, cols, tensors: vec![*tensor], base: 0 }),
            }
        }
        let mut base = 0;
        for batch in &mut batches {
            batch.base = base;
            base += batch.quads();
        }
        (batches, others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Shape;
    use crate::nn::Init;
    use crate::train::Optimizer;

    fn spec(name: &str, dims: &[usize]) -> ParameterSpec {
        let (name, shape) = (name.to_owned(), Shape::real(dims));
        ParameterSpec { name, shape, init: Init::Constant(0.0), stream: 0, requires_grad: true }
    }

    #[test]
    fn hidden_matrices_are_found_by_shape_and_name() {
        for (name, dims, hidden) in [
            ("blocks.0.attention.qkv.weight", &[48, 16][..], true),
            ("heads.weight", &[4, 4], true),
            ("blocks.0.attention.qkv.bias", &[48], false),
            ("token_embedding.weight", &[27, 16], false),
            ("head.weight", &[27, 16], false),
            ("lm_head.weight", &[27, 16], false),
            ("convolution.weight", &[8, 3, 3, 3], false),
        ] {
            assert_eq!(is_hidden_matrix(&spec(name, dims)), hidden, "{name}");
        }
    }

    #[test]
    fn batches_hold_one_shape_and_have_a_bound() {
        let shapes =
            [[1024, 4096], [4096, 4096], [1024, 4096], [4096, 1024], [1024, 4096], [4096, 4096]];
        let specs: Vec<_> = shapes.iter().map(|dims| spec("w", dims)).collect();
        let mut offset = 0;
        let tensors = specs.iter().zip(0..).map(|(spec, index)| {
            let tensor = SegmentTensor::new(spec, index, offset, 0);
            offset += tensor.quads();
            tensor
        });
        let tensors: Vec<_> = tensors.collect();
        let (batches, others) = Muon::default().divide(&tensors);
        assert!(others.is_empty());
        let indices = |batch: &Batch<'_>| batch.tensors.iter().map(|t| t.index).collect::<Vec<_>>();
        let found: Vec<_> =
            batches.iter().map(|batch| (batch.base >> 20, indices(batch))).collect();
        let expected = [(0, vec![0, 2]), (2, vec![1]), (6, vec![3]), (7, vec![4]), (8, vec![5])];
        assert_eq!(found, expected);
        let bytes = Muon::default().moment_bytes(&tensors);
        assert_eq!(bytes, [16 * u64::from(offset), 0, 0]);
    }
}
