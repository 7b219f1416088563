//! What activations are stored in, where nobody says: f32, unless half precision is clearly faster
//! on this adapter, or is what fits into the memory. Half precision is bf16, which has the range of
//! f32 and takes no loss scale; arithmetic is f32 either way.

use std::time::{Duration, Instant};

use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::train::{Batch, Trainer, TrainerBuilder};
use evenkeel::{Error, Gpu, Precision, Result};

const HALF: Precision = Precision::Bf16;
/// How many times faster half precision must be: less may be noise, and is not worth the rounding.
const FASTER: f64 = 1.2;
/// Blocks of the model that is measured, at most.
const BLOCKS: usize = 2;
/// Steps that are measured together, and how often.
const STEPS: u32 = 3;
const ROUNDS: usize = 5;
/// Once it is over no further round is begun.
const LONGEST: Duration = Duration::from_secs(5);

/// What was chosen, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub precision: Precision,
    pub why: String,
}

/// The same model with its first blocks alone, to be measured in seconds.
pub fn first_blocks(gpt: &GptConfig) -> GptConfig {
    let mut few = gpt.clone();
    few.layers = few.layers.min(BLOCKS);
    few.layer_kinds.truncate(few.layers);
    // Adapters name the blocks that they are in.
    few.lora = None;
    if Gpt::new(few.clone()).is_ok() { few } else { GptConfig { lora: None, ..gpt.clone() } }
}

/// Chooses. `fits` says whether the run has room, `probe` is a trainer of the
/// [first blocks](first_blocks), `batch` one of its batches.
///
/// # Errors
/// Those of `fits`, `probe` and the trainer. A probe that finds no room is none.
pub async fn choose(
    gpu: &Gpu,
    fits: impl Fn(Precision) -> Result<bool>,
    probe: impl Fn(Precision) -> Result<TrainerBuilder<LanguageModel>>,
    batch: &Batch,
) -> Result<Choice> {
    let chosen = |precision, why: &str| Ok(Choice { precision, why: why.to_owned() });
    if !fits(Precision::F32)? && fits(HALF)? {
        return chosen(HALF, "f32 does not fit into the memory, and bf16 does");
    }
    if gpu.is_software() {
        return chosen(Precision::F32, "a software adapter gains nothing from half precision");
    }
    match times(gpu, probe, batch).await {
        Ok([full, half]) => Ok(faster(full, half)),
        Err(Error::OutOfMemory { .. }) => {
            chosen(Precision::F32, "there was no room to measure bf16 beside it")
        }
        Err(error) => Err(error),
    }
}

/// What the seconds of a step say.
fn faster(full: f64, half: f64) -> Choice {
    let times = full / half;
    let why = if times >= FASTER {
        format!("a step is {times:.2} times faster in bf16 here")
    } else if times >= 1.0 {
        format!("a step is only {times:.2} times faster in bf16 here; {FASTER} would be needed")
    } else {
        format!("a step is {:.2} times slower in bf16 here", 1.0 / times)
    };
    Choice { precision: if times >= FASTER { HALF } else { Precision::F32 }, why }
}

/// Seconds of a step in f32 and in half precision, the least of several rounds: in turn, so that
/// what else the device does meets both.
async fn times(
    gpu: &Gpu,
    probe: impl Fn(Precision) -> Result<TrainerBuilder<LanguageModel>>,
    batch: &Batch,
) -> Result<[f64; 2]> {
    let mut trainers = [probe(Precision::F32)?.build(gpu).await?, probe(HALF)?.build(gpu).await?];
    // Drivers compile, and the first step is submitted in parts.
    for trainer in &mut trainers {
        seconds(trainer, batch).await?;
    }
    let (begun, mut least) = (Instant::now(), [f64::INFINITY; 2]);
    for round in 0..ROUNDS {
        if round > 0 && begun.elapsed() > LONGEST {
            break;
        }
        for (trainer, least) in trainers.iter_mut().zip(&mut least) {
            *least = least.min(seconds(trainer, batch).await?);
        }
    }
    Ok(least)
}

async fn seconds(trainer: &mut Trainer<LanguageModel>, batch: &Batch) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..STEPS {
        trainer.step(batch).await?;
    }
    // Waits for the device.
    trainer.telemetry().await?;
    Ok(begun.elapsed().as_secs_f64() / f64::from(STEPS))
}

#[cfg(test)]
mod tests {
    use evenkeel::train::Trainer;

    use super::*;

    #[test]
    fn half_precision_must_be_clearly_faster() {
        let of = |full, half| {
            let Choice { precision, why } = faster(full, half);
            (precision, why)
        };
        let (precision, why) = of(3.0, 2.0);
        assert_eq!((precision, why.contains("1.50 times faster")), (HALF, true), "{why}");
        let (precision, why) = of(1.1, 1.0);
        assert_eq!((precision, why.contains("only 1.10 times")), (Precision::F32, true), "{why}");
        let (precision, why) = of(1.0, 2.0);
        assert_eq!((precision, why.contains("2.00 times slower")), (Precision::F32, true), "{why}");
    }

    #[test]
    fn a_probe_measures_and_what_fits_comes_first() {
        let Ok(gpu) = pollster::block_on(Gpu::new()) else { return };
        let gpt = first_blocks(&GptConfig::gpt2(16, 8, 5, 2, 16));
        assert_eq!(gpt.layers, BLOCKS);
        let model = LanguageModel { gpt: Gpt::new(gpt).expect("a model"), batch: 1, time: 8 };
        let probe = |precision| Ok(Trainer::builder(model.clone()).precision(precision));
        let batch = Batch::new().with("tokens", vec![1; 8]).with("targets", vec![2; 8]);
        let measured = pollster::block_on(times(&gpu, probe, &batch)).expect("times");
        assert!(measured.iter().all(|time| time.is_finite() && *time > 0.0), "{measured:?}");
        let half_fits = |precision| Ok(precision == HALF);
        let choice = pollster::block_on(choose(&gpu, half_fits, probe, &batch)).expect("a choice");
        assert_eq!(choice.precision, HALF);
        if gpu.is_software() {
            let none = pollster::block_on(choose(&gpu, |_| Ok(false), probe, &batch));
            assert_eq!(none.expect("a choice").precision, Precision::F32);
        }
    }
}
