//! The average of the weights follows them, if the verdict is to apply the step.

use super::Pass;
use crate::error::Result;
use crate::kernels::AverageWeights;
use crate::plan::Parameters;
use crate::record::Recorder;
use crate::train::average::Average;

/// The averages of the trained weights, where they are kept.
pub(super) struct AverageUpdate<'a> {
    pub average: Option<&'a Average>,
    pub parameters: &'a Parameters,
}

impl Pass for AverageUpdate<'_> {
    fn record(&self, recorder: &mut Recorder<'_>) -> Result<()> {
        let Some(Average { ema, values, .. }) = self.average else { return Ok(()) };
        let state = recorder.step_state();
        let (weights, quads) =
            (self.parameters.trained_weights(), self.parameters.trained_segments());
        for ((weight, &quads), average) in weights.iter().zip(quads).zip(values) {
            recorder.dispatch(&AverageWeights {
                params: ema.params(quads),
                state: state.clone(),
                weight: weight.as_entire_buffer_binding(),
                average: average.as_entire_buffer_binding(),
            });
        }
        Ok(())
    }
}
