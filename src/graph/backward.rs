//! The reverse walk: from a scalar loss to gradients of all trained parameters.

use std::collections::HashMap;

use super::ops::{Add, SeedGradient};
use super::{Element, Graph, Source, Value};
use crate::kernel::Precision;

impl Graph {
    /// Appends the gradient operations of `loss`, which must be one f32 number. The upstream of
    /// the loss is the step's loss scale times `factor` (1 / microbatches, for a mean over them).
    /// Gradients of trained parameters end up in [`gradients`](Self::gradients); the walk ends where
    /// nothing below is trained.
    #[track_caller]
    pub fn backward(&mut self, loss: Value, factor: f32) {
        let shape = self.shape(loss);
        assert!(
            shape.count() == 1 && shape.element == Element::F32,
            "a loss is one f32 number, not {shape}"
        );
        assert!(self.gradients.is_empty(), "a graph is differentiated once");
        let forward = loss.node + 1;
        let needed = self.requires_gradient(forward);
        let mut upstream: Vec<Vec<Option<Value>>> =
            self.nodes[..forward].iter().map(|node| vec![None; node.shapes.len()]).collect();
        let scope = std::mem::take(&mut self.scope);
        self.differentiated = Some(self.nodes[loss.node].module.clone());
        let seed = self.apply(SeedGradient { factor }, &[]);
        upstream[loss.node][loss.output] = Some(seed);
        let mut recomputed = std::mem::take(&mut self.recomputed);
        let mut again = HashMap::new();

        for index in (0..forward).rev() {
            if !needed[index] || upstream[index].iter().all(Option::is_none) {
                continue;
            }
            let node = self.nodes[index].clone();
            let Source::Op(op) = &node.source else { continue };
            while recomputed.last().is_some_and(|nodes| nodes.end > index) {
                let nodes = recomputed.pop().expect("the last");
                if nodes.contains(&index) {
                    again = self.compute_again(nodes);
                }
            }
            // Gradients are made of what is computed again, where that is.
            let seen = again.get(&index).map_or_else(|| node.clone(), |&i| self.nodes[i].clone());
            // Labels of gradient operations say whose gradient they are part of.
            self.scope = vec![node.label.clone(), "gradient".to_owned()];
            self.differentiated = Some(node.module.clone());
            let gradients = self.with_precision(node.precision, |graph| {
                op.gradient(graph, &seen, &upstream[index])
            });
            assert_eq!(gradients.len(), node.inputs.len(), "{}: gradients", node.label);
            for (&input, gradient) in node.inputs.iter().zip(gradients) {
                let Some(gradient) = gradient else { continue };
                if needed[input.node] {
                    self.contribute(&node.label, input, gradient, &mut upstream);
                }
            }
        }
        self.scope = scope;
        self.differentiated = None;
        self.fuse_gradient_products();
        self.join_column_sums();
    }

    /// Adds one gradient to what an input has already received. Parameters keep their
    /// contributions apart: each is added in place in the gradient buffer.
    fn contribute(
        &mut self,
        label: &str,
        input: Value,
        gradient: Value,
        upstream: &mut [Vec<Option<Value>>],
    ) {
        let (expected, found) = (&self.shape(input).dims, &self.shape(gradient).dims);
        assert_eq!(expected, found, "{label}: gradient of {}", self.nodes[input.node].label);
        if let Some(parameter) = self.parameter_behind(input) {
            let gradient = self.cast(gradient, Precision::F32);
            self.gradients.push((parameter, gradient));
            return;
        }
        let gradient = match self.shape(input).element {
            Element::Real => self.cast(gradient, self.shape(input).precision),
            _ => gradient,
        };
        let sum = match upstream[input.node][input.output] {
            Some(before) => {
                let precision = self.shape(before).precision;
                self.with_precision(precision, |graph| graph.apply(Add, &[before, gradient]))
            }
            None => gradient,
        };
        upstream[input.node][input.output] = Some(sum);
    }

    /// The parameter that a value is, or a copy of in another precision: its gradient is f32
    /// either way.
    pub(crate) fn parameter_behind(&self, value: Value) -> Option<usize> {
        let node = &self.nodes[value.node];
        match (&node.source, node.inputs.first()) {
            (Source::Parameter(index), _) => Some(*index),
            (Source::Op(_), Some(&from))
                if self.casts.get(&(from, self.shape(value).precision)) == Some(&value) =>
            {
                self.parameter_behind(from)
            }
            _ => None,
        }
    }

    /// Which of the first `count` nodes are trained parameters or computed from them.
    fn requires_gradient(&self, count: usize) -> Vec<bool> {
        let mut requires = Vec::with_capacity(count);
        for node in &self.nodes[..count] {
            let is_trained = match node.source {
                Source::Parameter(index) => self.parameters[index].requires_grad,
                _ => false,
            };
            requires.push(is_trained || node.inputs.iter().any(|input| requires[input.node]));
        }
        requires
    }
}
