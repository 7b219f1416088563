//! A graph run on the CPU in f64: the oracle for plans and for gradients.

use std::collections::HashMap;

use super::{Dense, Graph, Source, StateSpec, Value};
use crate::step::StepInput;

/// Values of the leaves by name, dense, in f64: inputs, parameters and states.
#[derive(Clone, Debug, Default)]
pub struct HostData {
    /// Elements by the leaf's name.
    pub values: HashMap<String, Vec<f64>>,
    /// Seed, step and microbatch for operations that draw random numbers.
    pub step: StepInput,
}

/// All values of a graph.
#[derive(Clone, Debug)]
pub struct Evaluation {
    values: Vec<Vec<Vec<f64>>>,
}

impl Evaluation {
    /// The elements of a value.
    pub fn get(&self, value: Value) -> &[f64] {
        &self.values[value.node][value.output]
    }
}

impl StateSpec {
    /// The rows, each as given or as it starts.
    fn evaluate(&self, data: &HostData) -> Vec<f64> {
        let mut rows = Vec::with_capacity(self.shape.count());
        for (name, &initial) in self.names.iter().zip(&self.initial) {
            match data.values.get(name) {
                Some(row) => {
                    assert_eq!(row.len(), self.shape.cols(), "{name} of {}", self.shape);
                    rows.extend_from_slice(row);
                }
                None => rows.resize(rows.len() + self.shape.cols(), f64::from(initial)),
            }
        }
        rows
    }
}

impl Graph {
    /// Computes every node in f64. Leaves are taken from `data` by name; states that are not
    /// given have their initial value.
    ///
    /// # Panics
    /// Where a leaf is missing or has the wrong number of elements.
    pub fn evaluate(&self, data: &HostData) -> Evaluation {
        let mut values: Vec<Vec<Vec<f64>>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let shape = &node.shapes.first();
            let named = |name: &str| {
                let found = data.values.get(name);
                if let (Some(found), Some(shape)) = (found, shape) {
                    assert_eq!(found.len(), shape.count(), "{name} of shape {shape}");
                }
                found.cloned()
            };
            let outputs = match &node.source {
                Source::Input(_) | Source::Parameter(_) => {
                    vec![named(&node.label).unwrap_or_else(|| panic!("no data for {}", node.label))]
                }
                Source::State(index) => vec![self.states[*index].evaluate(data)],
                Source::Constant(data) => vec![data.iter().map(|&x| f64::from(x)).collect()],
                Source::Op(op) => {
                    let inputs: Vec<_> = node
                        .inputs
                        .iter()
                        .map(|&input| Dense {
                            shape: self.shape(input),
                            data: &values[input.node][input.output],
                        })
                        .collect();
                    let outputs = op.evaluate(&data.step, &inputs);
                    assert_eq!(outputs.len(), node.shapes.len(), "{}: outputs", node.label);
                    outputs
                }
            };
            for (output, shape) in outputs.iter().zip(&node.shapes) {
                assert_eq!(output.len(), shape.count(), "{}: output of {shape}", node.label);
            }
            values.push(outputs);
        }
        Evaluation { values }
    }

    /// The gradient of each parameter, summed over its contributions.
    pub fn evaluated_gradients(&self, evaluation: &Evaluation) -> Vec<Vec<f64>> {
        let zeros = |parameter: &super::ParameterSpec| vec![0.0; parameter.shape.count()];
        let mut sums: Vec<_> = self.parameters.iter().map(zeros).collect();
        for &(parameter, value) in &self.gradients {
            for (sum, x) in sums[parameter].iter_mut().zip(evaluation.get(value)) {
                *sum += x;
            }
        }
        sums
    }
}
