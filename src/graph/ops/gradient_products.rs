//! Products that make one gradient: added up where they are stored, and times the derivative of an
//! activation there.

use super::Product;
use crate::graph::{Dense, Op, Shape};
use crate::kernels::Activation;
use crate::record::{Extent, Machine, Recorder, Slot};
use crate::reference::elementwise as reference;
use crate::step::StepInput;

/// The gradient of an activation f. With dy, the gradient of what it gave, and its argument z, that
/// of z is dy f'(z). Where it is gated, a row of z is g | u, y is f(g) u, and the gradient of z is
/// dy u f'(g) | dy f(g).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationGradient {
    /// f.
    pub kind: Activation,
    /// Whether it is that of a gate, as in [`Gated`](super::Gated).
    pub gated: bool,
}

/// What a product A·B ends with: the derivative of an activation, and that one's argument.
#[derive(Clone, Copy)]
pub(super) struct Derivative<'a> {
    pub(super) gradient: ActivationGradient,
    pub(super) argument: &'a Slot,
}

/// The sum of some products A·B, or with an activation its gradient where that sum is its upstream.
/// Inputs are A and B of each product, then the argument of the activation.
#[derive(Clone, Debug)]
pub struct GradientProducts {
    /// All of one shape.
    pub products: Vec<Product>,
    /// What the last of them ends with.
    pub activation: Option<ActivationGradient>,
}

impl Op for GradientProducts {
    fn name(&self) -> &'static str {
        "gradient_products"
    }

    fn shapes(&self, inputs: &[Shape]) -> Vec<Shape> {
        let products = self.products.iter().zip(inputs.chunks(2));
        let mut sums = products.flat_map(|(product, operands)| product.shapes(operands));
        let sum = sums.next().expect("a product at least");
        assert!(sums.all(|other| other == sum), "gradient_products: one is {sum}, others are not");
        let Some(ActivationGradient { kind, gated }) = self.activation else { return vec![sum] };
        let argument = &inputs[2 * self.products.len()];
        let parts = if gated { 2 } else { 1 };
        let fits = argument.rows() == sum.rows() && argument.cols() == parts * sum.cols();
        assert!(fits, "gradient_products: {sum} for the argument {argument} of {kind:?}");
        vec![argument.clone()]
    }

    fn record(&self, recorder: &mut Recorder<'_>, inputs: &[Slot], outputs: &[Slot]) {
        let mut sum = outputs[0].clone();
        let last = self.products.len() - 1;
        for (index, (product, operands)) in self.products.iter().zip(inputs.chunks(2)).enumerate() {
            let activation = self.activation.filter(|_| index == last);
            let derivative = activation
                .map(|gradient| Derivative { gradient, argument: &inputs[2 * (last + 1)] });
            sum.accumulate = index > 0;
            product.record_pieces(recorder, [&operands[0], &operands[1], &sum], derivative);
        }
    }

    fn scratch_bytes(&self, machine: Machine, inputs: &[Extent], outputs: &[Extent]) -> u64 {
        let products = self.products.iter().zip(inputs.chunks(2));
        let bytes = products.map(|(product, ab)| product.scratch_bytes(machine, ab, outputs));
        bytes.max().unwrap_or(0)
    }

    /// One of each A and B may be.
    fn takes_parts(&self, inputs: &[Slot], outputs: &[Slot]) -> bool {
        let (operands, argument) = inputs.split_at(2 * self.products.len());
        let mut products = self.products.iter().zip(operands.chunks(2));
        !argument.iter().chain(outputs).any(Slot::is_in_parts)
            && products.all(|(product, operands)| product.takes_parts(operands, outputs))
    }

    fn takes_blocks(&self, input: usize) -> bool {
        self.products.get(input / 2).is_some_and(|product| product.takes_blocks(input % 2))
    }

    fn evaluate(&self, step: &StepInput, inputs: &[Dense<'_>]) -> Vec<Vec<f64>> {
        let products = self.products.iter().zip(inputs.chunks(2));
        let terms = products.map(|(product, operands)| product.evaluate(step, operands).remove(0));
        let dy = terms.reduce(|sum, term| reference::add(&sum, &term)).expect("a product at least");
        let Some(ActivationGradient { kind, gated }) = self.activation else { return vec![dy] };
        let z = inputs[2 * self.products.len()];
        vec![if gated {
            reference::gated_backward(kind, z.shape.cols() / 2, z.data, &dy)
        } else {
            reference::activate_backward(kind, z.data, &dy)
        }]
    }
}
