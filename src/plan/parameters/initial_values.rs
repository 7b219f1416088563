//! Initial values of parameters, drawn on the device, and of states.

use super::Parameters;
use super::trained::count_in_quads;
use crate::graph::Element;
use crate::init::Draw;
use crate::kernel::WeightStorage;
use crate::kernels::{StoreWeights, StoreWeightsParams};
use crate::record::{Slot, to_u32};

impl Parameters {
    /// Gives every parameter that is not in blocks, and every state, its initial value; parameters
    /// are drawn on the device, in f32, and rounded to nearest where the storage rounds.
    pub fn initialize(&self, seed: u32) {
        // Drawn where they stay, or one after the other in a buffer for the largest.
        let slots: Vec<_> =
            (0..count_in_quads(&self.layout.specs)).map(|index| self.slot(index)).collect();
        let parts = || slots.iter().flat_map(Slot::parts);
        let largest = parts().map(|(_, part)| part.shape.with(Element::Real).bytes()).max();
        let drawn = match self.layout.storage {
            WeightStorage::F32 => None,
            _ => largest.map(|bytes| self.gpu.buffer("drawn weights", bytes)),
        };
        for (spec, slot) in self.layout.specs.iter().zip(&slots) {
            let distribution = spec.init.resolve(&spec.shape.dims);
            for (first, part) in slot.parts() {
                let rows_per_entry = spec.shape.rows() / spec.shape.dims[0].max(1);
                let [first_row, rows, cols] =
                    [first * rows_per_entry, part.shape.rows(), part.shape.cols()].map(to_u32);
                let draw = Draw { first_row, rows, cols, seed, stream: spec.stream };
                let Some(drawn) = &drawn else {
                    distribution.write(&self.gpu, draw, part.binding());
                    continue;
                };
                let drawn = Slot::new(drawn.clone(), part.shape.with(Element::Real));
                distribution.write(&self.gpu, draw, drawn.binding());
                self.store(&part, &drawn);
            }
        }
        for (index, spec) in self.layout.states.iter().enumerate() {
            let slot = self.state_slot(index);
            let cols = spec.shape.cols();
            let rows: Vec<f32> =
                spec.initial.iter().flat_map(|&x| std::iter::repeat_n(x, cols)).collect();
            self.gpu.write(&slot.buffer, slot.offset, bytemuck::cast_slice(&slot.shape.pad(&rows)));
        }
    }

    /// Brings f32 values into the storage, where a parameter or a part of it lies.
    fn store(&self, to: &Slot, values: &Slot) {
        let store = StoreWeights {
            params: StoreWeightsParams {
                first: to_u32((to.offset / to.shape.precision.quad_bytes()) as usize),
                quads: to_u32(values.shape.quads()),
            },
            x: values.binding(),
            weight: to.buffer.as_entire_buffer_binding(),
        };
        self.gpu.run_as(&store, self.layout.storage);
    }
}
