//! Activations that are computed again in the backward pass instead of being kept for it (Chen et al.
//! 2016, arXiv 1604.06174; gradient checkpointing elsewhere).

use std::collections::HashMap;
use std::ops::Range;

use super::{Graph, Node, Source, Value};

impl Graph {
    /// Runs `build`, and has the backward pass compute again whatever of it gradients are made of:
    /// between the two passes only what `build` reads from outside and what is read of it outside is
    /// kept. The same kernels over the same values: no bit of a training changes.
    ///
    /// # Panics
    /// Inside of another `recompute`.
    #[track_caller]
    pub fn recompute<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        let (first, before) = (self.nodes.len(), self.recomputed.len());
        let result = build(self);
        assert_eq!(self.recomputed.len(), before, "recompute inside of recompute");
        self.recomputed.push(first..self.nodes.len());
        result
    }

    /// Appends the operations of these nodes once more, reading from each other. Returns for each
    /// node the one that stands for it.
    pub(super) fn compute_again(&mut self, nodes: Range<usize>) -> HashMap<usize, usize> {
        let mut again = HashMap::new();
        for index in nodes {
            let node = self.nodes[index].clone();
            // Copies of parameters are made once, and a step is counted once.
            let once = match &node.source {
                Source::Op(op) => {
                    op.spans_step() || self.parameter_behind(node.output(0)).is_some()
                }
                _ => true,
            };
            if once {
                continue;
            }
            let stands_in = |input: &Value| Value {
                node: again.get(&input.node).copied().unwrap_or(input.node),
                output: input.output,
            };
            let inputs = node.inputs.iter().map(stands_in).collect();
            let copy = self.nodes.len();
            self.nodes.push(Node { inputs, is_gradient: true, index: copy, ..node });
            again.insert(index, copy);
        }
        again
    }
}
