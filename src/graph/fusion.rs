//! Gradient operations that become one, which saves the passes between them.

use std::any::Any;
use std::collections::HashMap;
use std::rc::Rc;

use super::ops::{
    ActivationBackward, ActivationGradient, Add, ColumnSum, ColumnSums, GatedBackward,
    GradientProducts, Product,
};
use super::{Element, Graph, Node, Op, Shape, Source, Value};
use crate::kernels::Activation;

/// How often each value is read.
type Uses = HashMap<Value, usize>;

impl Graph {
    /// Lets products that make the gradient of one value, as those of a linear layer and of an adapter
    /// beside it, be added up where they are stored, and end with the derivative of the activation
    /// that gave the value: where nothing else reads what lies between. A gradient that anything but
    /// products adds to stays as it is.
    ///
    /// The one operation takes the place of the last, in front of which is all that it reads, some of
    /// which may have been computed again. The others stay in the graph, and nothing needs them.
    pub(super) fn fuse_gradient_products(&mut self) {
        let uses = self.uses();
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            let fused = self.sum_of_products(node, &uses);
            if let Some(fused) = fused.or_else(|| self.products_and_activation(node, &uses)) {
                self.nodes[index] = fused;
            }
        }
    }

    /// Takes the last sums of four gradients of biases and norms at a time, in the place of the last of
    /// them: a device takes as long for a dispatch that small as for four. Those of one outermost module
    /// that follow each other, and have the place in the gradients for themselves, so that all are written
    /// there or all are added.
    pub(super) fn join_column_sums(&mut self) {
        let uses = self.uses();
        let mut contributions: HashMap<usize, usize> = HashMap::new();
        for &(parameter, _) in &self.gradients {
            *contributions.entry(parameter).or_default() += 1;
        }
        let is_alone = |&(parameter, value): &(usize, Value)| {
            let is_sum = find::<ColumnSum>(&self.nodes[value.node]).is_some();
            is_sum && uses[&value] == 1 && contributions[&parameter] == 1
        };
        let alone = self.gradients.iter().copied().filter(is_alone);
        let mut sums: Vec<_> = alone.map(|(_, value)| value).collect();
        sums.sort_unstable();
        let kind = |sum: &Value| {
            let node = &self.nodes[sum.node];
            (node.module.split('.').next(), self.shape(node.inputs[0]).rows())
        };
        let alike = sums.chunk_by(|one, other| kind(one) == kind(other));
        let joined: Vec<_> = alike
            .flat_map(|sums| sums.chunks_exact(4))
            .map(|four| (four, self.joined(four)))
            .collect();
        let mut moved = HashMap::new();
        for (four, node) in joined {
            moved.extend(four.iter().copied().zip((0..4).map(|output| node.output(output))));
            let index = node.index;
            self.nodes[index] = node;
        }
        for (_, value) in &mut self.gradients {
            *value = moved.get(value).copied().unwrap_or(*value);
        }
    }

    /// The node that does in the place of the last what all of these sums do.
    fn joined(&self, sums: &[Value]) -> Node {
        let sums: Vec<_> = sums.iter().map(|sum| &self.nodes[sum.node]).collect();
        let modules: Vec<_> = sums.iter().map(|sum| &*sum.module).collect();
        let module = common_module(&modules);
        let scope = if module.is_empty() { String::new() } else { format!("{module}.") };
        Node {
            source: Source::Op(Rc::new(ColumnSums)),
            inputs: sums.iter().map(|sum| sum.inputs[0]).collect(),
            shapes: sums.iter().map(|sum| sum.shapes[0].clone()).collect(),
            label: format!("{scope}gradient.{}", ColumnSums.name()),
            module,
            ..sums[sums.len() - 1].clone()
        }
    }

    /// The sum of gradients that are products.
    fn sum_of_products(&self, sum: &Node, uses: &Uses) -> Option<Node> {
        find::<Add>(sum)?;
        let [first, second] = [sum.inputs[0], sum.inputs[1]];
        let (mut products, mut inputs) = self.products(first, sum, uses)?;
        let (added, read) = self.products(second, sum, uses)?;
        products.extend(added);
        inputs.extend(read);
        // Others are no gradients, but sums of the forward pass.
        let all_flat = products.iter().all(|product| product.flat);
        let op = GradientProducts { products, activation: None };
        all_flat.then(|| self.in_place_of(sum, first, op, inputs))
    }

    /// The gradient of an activation whose upstream products make.
    fn products_and_activation(&self, gradient: &Node, uses: &Uses) -> Option<Node> {
        let plain = find(gradient).map(|&ActivationBackward { kind }| (kind, false));
        let of_gate = || find(gradient).map(|&GatedBackward { kind }| (kind, true));
        let (kind, gated) = plain.or_else(of_gate)?;
        if kind == Activation::None {
            return None;
        }
        let [argument, upstream] = [gradient.inputs[0], gradient.inputs[1]];
        let (products, mut inputs) = self.products(upstream, gradient, uses)?;
        inputs.push(argument);
        let activation = Some(ActivationGradient { kind, gated });
        let is_tensor = self.shape(argument).element == Element::Real;
        let op = GradientProducts { products, activation };
        is_tensor.then(|| self.in_place_of(gradient, upstream, op, inputs))
    }

    /// The products A·B that make `value` for `reader` alone and in its precision, and what they read.
    fn products(
        &self,
        value: Value,
        reader: &Node,
        uses: &Uses,
    ) -> Option<(Vec<Product>, Vec<Value>)> {
        let node = &self.nodes[value.node];
        let products = match find::<GradientProducts>(node) {
            Some(sum) if sum.activation.is_none() => sum.products.clone(),
            _ => vec![*find::<Product>(node)?],
        };
        let is_alone = node.precision == reader.precision && uses[&value] == 1;
        let fit = is_alone && products.iter().all(Product::is_of_data);
        fit.then(|| (products, node.inputs.clone()))
    }

    /// The node that does in the place of `last` all that is done from where `first` is made.
    fn in_place_of(
        &self,
        last: &Node,
        first: Value,
        op: GradientProducts,
        inputs: Vec<Value>,
    ) -> Node {
        let first = &self.nodes[first.node];
        let shapes: Vec<_> = inputs.iter().map(|&input| self.shape(input).clone()).collect();
        let stored = |shape: Shape| shape.stored_as(last.precision);
        let shapes = op.shapes(&shapes).into_iter().map(stored).collect();
        let index = last.index;
        Node { source: Source::Op(Rc::new(op)), inputs, shapes, index, ..first.clone() }
    }

    /// By operations, and where gradients, states and observations go.
    fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        let inputs = self.nodes.iter().flat_map(|node| &node.inputs);
        let sinks = self.gradients.iter().chain(&self.staged).map(|(_, value)| value);
        let observed = self.observations.iter().map(|(_, value)| value);
        for value in inputs.chain(sinks).chain(observed) {
            *uses.entry(*value).or_default() += 1;
        }
        uses
    }
}

/// The innermost module that all of these are in.
fn common_module(modules: &[&str]) -> String {
    let mut common: Vec<_> = modules[0].split('.').collect();
    for module in &modules[1..] {
        let pairs = common.iter().zip(module.split('.'));
        common.truncate(pairs.take_while(|(one, other)| *one == other).count());
    }
    common.join(".")
}

/// A node's operation, where it is of this type.
fn find<T: Op>(node: &Node) -> Option<&T> {
    let Source::Op(op) = &node.source else { return None };
    let op: &dyn Any = &**op;
    op.downcast_ref()
}
