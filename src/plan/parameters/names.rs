//! Names of parameters and states: where a graph's are in the set, and that no two are the same.

use std::collections::HashSet;

use super::{ParameterLayout, Parameters};
use crate::error::{Error, Result};
use crate::graph::{Graph, ParameterSpec, StateSpec};

impl ParameterLayout {
    /// Checks that a graph's parameters and states are among these, with the same shapes, and that
    /// it reads parameters in the precision they are stored in.
    pub(crate) fn index_of(&self, graph: &Graph) -> Result<(Vec<usize>, Vec<usize>)> {
        if graph.weights().precision() != self.storage.precision() {
            return Err(Error::Unsupported {
                what: format!(
                    "a graph over parameters in {}, where they are stored as {}",
                    graph.weights(),
                    self.storage
                ),
                instead: "build the graph with_weights(parameters.storage())".into(),
            });
        }
        for wanted in graph.parameters() {
            let format = wanted.shape.block_format();
            let found = self.specs.iter().find(|spec| spec.name == wanted.name);
            let Some(found) = found.filter(|s| s.shape.block_format() != format) else { continue };
            let words = |spec: &ParameterSpec| {
                spec.shape.block_format().map_or("no blocks".into(), |f| format!("blocks of {f}"))
            };
            return Err(Error::Unsupported {
                what: format!(
                    "a graph over {} in {}, where it lies in {},",
                    wanted.name,
                    words(wanted),
                    words(found)
                ),
                instead: "build the model with the same GptConfig::base_format".into(),
            });
        }
        let missing = |kind, name: &str| Error::UnknownName {
            kind,
            name: name.to_owned(),
            known: self.names().collect::<Vec<_>>().join(", "),
        };
        let parameters = graph.parameters().iter().map(|wanted| {
            let same = |p: &ParameterSpec| p.name == wanted.name && p.shape == wanted.shape;
            self.specs.iter().position(same).ok_or_else(|| missing("parameter", &wanted.name))
        });
        let states = graph.states().iter().map(|wanted| {
            let same = |s: &StateSpec| s.names == wanted.names && s.shape == wanted.shape;
            self.states.iter().position(same).ok_or_else(|| missing("state", &wanted.names[0]))
        });
        Ok((parameters.collect::<Result<_>>()?, states.collect::<Result<_>>()?))
    }
}

impl Parameters {
    /// Panics if two parameters or states have the same name, or one that files have for others.
    pub(crate) fn assert_unique_names(&self) {
        let mut seen = HashSet::new();
        for name in self.names() {
            assert!(seen.insert(name), "{name:?} names both a parameter and a state");
            let is_reserved = name.starts_with("evenkeel/") || name == "__metadata__";
            assert!(!is_reserved, "checkpoints have {name:?} for something else");
        }
    }
}
