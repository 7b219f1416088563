//! A graph recorded into a plan, with its parameters and where its gradients go.

use evenkeel::Gpu;
use evenkeel::gpu::Dispatch;
use evenkeel::graph::{Element, Graph, HostData, Value};
use evenkeel::plan::{Parameters, Plan, PlanRequest, Sinks};
use evenkeel::record::{Slot, StepBuffers};

use super::{block_on, read, unpad};

pub struct Recorded<'g> {
    pub gpu: &'g Gpu,
    pub parameters: Parameters,
    pub sinks: Sinks,
    pub plan: Plan,
}

impl<'g> Recorded<'g> {
    /// Records a graph for two microbatches and writes its data.
    pub fn new(gpu: &'g Gpu, graph: &Graph, data: &HostData, outputs: &[Value]) -> Self {
        let parameters = block_on(Parameters::new(gpu, graph, 0)).expect("parameters");
        let segments = parameters.segments().iter();
        let sinks = Sinks {
            gradients: segments.map(|quads| gpu.buffer("gradients", 16 * quads)).collect(),
            staged: gpu.buffer("staged", parameters.committed().size()),
        };
        let step = StepBuffers::new(gpu);
        gpu.write(&step.input, 0, bytemuck::bytes_of(&data.step));
        let request = PlanRequest {
            graph,
            outputs,
            parameters: &parameters,
            sinks: Some(&sinks),
            step: &step,
            microbatches: 2,
        };
        let plan = block_on(Plan::new(gpu, &request)).expect("a plan");
        let names: Vec<_> = parameters.names().map(str::to_owned).collect();
        for name in names {
            if let Some(values) = data.values.get(&name) {
                parameters.write(&name, &narrow(values)).expect("written");
            }
        }
        for input in &plan.inputs {
            let values = &data.values[&input.spec.name];
            let shape = &input.spec.shape;
            if shape.element == Element::U32 {
                let ids: Vec<_> = values.iter().map(|&id| id as u32).collect();
                gpu.write(&input.buffer, 0, bytemuck::cast_slice(&ids));
            } else {
                let padded = shape.pad(&narrow(values));
                gpu.write(&input.buffer, 0, bytemuck::cast_slice(&padded));
            }
        }
        Self { gpu, parameters, sinks, plan }
    }

    /// Runs dispatches in a submit of their own.
    pub fn run(&self, dispatches: &[Dispatch]) {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.gpu.encode(&mut encoder, dispatches);
        self.gpu.submit(encoder);
    }

    /// Dense; panics where padding is not zero.
    fn slot(&self, slot: &Slot) -> Vec<f32> {
        let bytes = slot.shape.bytes() as usize;
        let bytes = block_on(self.gpu.read(&slot.buffer, slot.offset, bytes)).expect("readable");
        unpad(&slot.shape.precision.decode(&bytes), slot.shape.cols())
    }

    /// Output `index`, dense.
    pub fn output(&self, index: usize) -> Vec<f32> {
        self.slot(&self.plan.outputs[index])
    }

    /// The gradient of parameter `index`, dense.
    pub fn gradient(&self, index: usize) -> Vec<f32> {
        self.slot(&self.parameters.slot_in(&self.sinks.gradients, index, Element::F32))
    }

    /// The staged value of state `index`, dense.
    pub fn staged(&self, index: usize) -> Vec<f32> {
        self.slot(&self.parameters.state_slot_in(&self.sinks.staged, index))
    }

    /// All outputs, gradients and staged states, as bits, padding included.
    pub fn bits(&self) -> Vec<u32> {
        let outputs = (0..self.plan.outputs.len()).flat_map(|index| self.output(index));
        let buffers = self.sinks.gradients.iter().chain([&self.sinks.staged]);
        let sinks = buffers.flat_map(|buffer| read(self.gpu, buffer));
        outputs.chain(sinks).map(f32::to_bits).collect()
    }
}

/// Back to the f32 that f64 data was made of.
pub fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}
