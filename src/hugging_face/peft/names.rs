//! Which tensors of a PEFT folder the parameters of an adapter are made of.

use super::super::{Config, Family, Kept, Tensor, TheirTensor};
use crate::nn::lora::AdaptedModule;
use crate::nn::{GptConfig, Lora};

/// In front of the names of all tensors.
pub(super) const PREFIX: &str = "base_model.model.";

/// The name of a tensor in a folder whose model has this in front of the names of its body.
pub(super) fn full_name(theirs: &TheirTensor, body: &str) -> String {
    let is_head = theirs.name.starts_with("lm_head.");
    format!("{PREFIX}{}{}", if is_head { "" } else { body }, theirs.name)
}

/// The name of a module behind that of the body.
fn inside(family: Family, module: &AdaptedModule) -> &str {
    module.name.strip_prefix(family.bodies()[0]).unwrap_or(&module.name)
}

/// What the parameters of an adapter are made of, in the order of the model.
pub(super) fn tensors(base: &Config, gpt: &GptConfig, lora: &Lora) -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> = Vec::new();
    for module in lora.modules(gpt) {
        let name = inside(base.family(), &module);
        let [a, b] = if module.is_embedding {
            [format!("{name}.lora_embedding_A"), format!("{name}.lora_embedding_B")]
        } else {
            [format!("{name}.lora_A.weight"), format!("{name}.lora_B.weight")]
        };
        let (outputs, inputs, rank) = (module.rows.len(), module.inputs, lora.rank);
        let a_tensor = if module.is_embedding {
            of_one(&module.a, &[outputs, rank], a, true)
        } else {
            let mut tensor = of_one(&module.a, &[module.a_rows.end, inputs], a, false);
            tensor.theirs[0].rows = module.a_rows.clone();
            tensor.theirs[0].shape = vec![rank, inputs];
            tensor
        };
        match tensors.iter_mut().find(|tensor| tensor.name == module.a) {
            Some(joined) => {
                joined.theirs.extend(a_tensor.theirs);
                joined.shape = a_tensor.shape;
            }
            None => tensors.push(a_tensor),
        }
        let b_rows = if module.is_embedding { inputs } else { outputs };
        tensors.push(of_one(&module.b, &[b_rows, rank], b, false));
        if let Some(magnitude) = &module.magnitude {
            let theirs = format!("{name}.lora_magnitude_vector");
            tensors.push(of_one(magnitude, &[outputs], theirs, false));
        }
    }
    tensors
}

/// What PEFT writes beside an adapter of the embedding or the head: their weights, which it reads
/// again into the model.
pub(super) fn copies(base: &Config, gpt: &GptConfig, lora: &Lora) -> Vec<Tensor> {
    let modules = lora.modules(gpt).into_iter();
    let ends = modules.filter(|module| module.is_embedding || module.name == "lm_head");
    let copy = |module: AdaptedModule| {
        let theirs = format!("{}.base_layer.weight", inside(base.family(), &module));
        of_one(&module.weight, &[module.rows.len(), module.inputs], theirs, false)
    };
    ends.map(copy).collect()
}

/// A parameter of this shape that is one tensor of theirs.
fn of_one(ours: &str, shape: &[usize], theirs: String, is_transposed: bool) -> Tensor {
    let mut their_shape = shape.to_vec();
    if is_transposed {
        their_shape.reverse();
    }
    let (rows, kept) = (0..shape[0], Kept::Same);
    Tensor {
        name: ours.to_owned(),
        shape: shape.to_vec(),
        theirs: vec![TheirTensor { name: theirs, shape: their_shape, rows, kept }],
        is_transposed,
    }
}
