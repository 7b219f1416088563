//! What layers do to their parameters after an update.

use std::cell::Cell;
use std::collections::HashMap;

use super::Pass;
use crate::error::Result;
use crate::graph::{Graph, Value};
use crate::plan::{Parameters, parts};
use crate::record::{Recorder, Slot};

/// The [`AfterUpdate`](crate::graph::AfterUpdate)s of a graph.
pub(super) struct AfterUpdates<'a> {
    pub graph: &'a Graph,
    /// Where the plan put its values.
    pub values: &'a HashMap<Value, Slot>,
    pub parameters: &'a Parameters,
}

impl Pass for AfterUpdates<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        let (index_of, _) = self.parameters.layout().index_of(self.graph)?;
        for layer in self.graph.after_updates() {
            let value = |value: Value| self.values[&value].clone();
            let in_parts = Cell::new(None);
            let parameter = |index: usize| {
                let index = index_of[index];
                if index >= self.parameters.trained().len() {
                    return None;
                }
                if self.parameters.is_in_parts(index) {
                    in_parts.set(Some(index));
                }
                Some(self.parameters.slot(index))
            };
            layer.record(recorder, &value, &parameter);
            if let Some(index) = in_parts.get() {
                let instead = "leave it out (for QK-clip there is QK-norm), or take a device with \
                               larger bindings";
                let name = &self.parameters.specs()[index].name;
                return Err(parts::unsupported("what acts after the update", name, instead));
            }
        }
        Ok(())
    }
}
