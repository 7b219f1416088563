//! What the leaves of a graph are to be: inputs, parameters and states by name and shape.

use super::Shape;
use crate::init::Init;

/// An input that the host writes before each step.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    /// Name.
    pub name: String,
    /// Shape of one microbatch.
    pub shape: Shape,
    /// Token ids must lie below this.
    pub bound: Option<u32>,
    /// Whether ids may also be [`IGNORE`](crate::train::IGNORE): targets of a cross-entropy may.
    pub ignorable: bool,
}

/// A parameter: a tensor that is trained, or frozen.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// Dotted name, as PyTorch would have it.
    pub name: String,
    /// Shape, in f32.
    pub shape: Shape,
    /// How it starts.
    pub init: Init,
    /// Random stream of the initialiser: the parameter's position in the model; of one that was
    /// [added](super::Graph::added_parameter) to it, a number beyond them all that follows from the
    /// name.
    pub stream: u32,
    /// Whether it is trained. A frozen tensor has a value, and no gradient; see
    /// [`Graph::frozen`](super::Graph::frozen).
    pub requires_grad: bool,
}

/// Tensors that are kept between steps and changed only by applied steps: the rows of one matrix,
/// each with a name of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpec {
    /// Dotted name of each row.
    pub names: Vec<String>,
    /// (rows, cols), of [`Element::F32`](crate::shape::Element::F32).
    pub shape: Shape,
    /// What every element of a row starts with, by row.
    pub initial: Vec<f32>,
}
