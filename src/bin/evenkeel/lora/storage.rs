//! What activations and the model's own weights are stored in, where the settings leave it open:
//! `precision: auto`.

use evenkeel::nn::GptConfig;
use evenkeel::run::Source;
use evenkeel::{Gpu, Precision, Result};

use super::data::Data;
use super::memory;
use super::settings::{PrecisionName, Settings};
use super::setup::{adapter, builder};
use crate::precision::{self, Choice};

/// Blocks for the model's own weights where nothing else fits, the mildest first.
const BLOCKS: [&str; 3] = ["q8_0", "q4_1", "q4_0"];

/// The settings with a precision, and with blocks where it fits in no other way, and why: by what a
/// rank of so many has in hand.
///
/// # Errors
/// What is wrong with the settings, and [`Error::DeviceLost`](evenkeel::Error).
pub async fn choose(
    settings: Settings,
    (source, data): (&Source, &Data),
    (gpu, ranks): (&Gpu, usize),
) -> Result<(Settings, Option<String>)> {
    if settings.precision != PrecisionName::Auto {
        return Ok((settings, None));
    }
    let with = |precision, quantize: Option<&str>| Settings {
        precision: named(precision),
        quantize: quantize.map(str::to_owned).or(settings.quantize.clone()),
        ..settings.clone()
    };
    let gpt = &source.config().gpt;
    let share = settings.share(ranks)?;
    let built = |settings: &Settings, gpt: &GptConfig| {
        builder(&settings.of_rank(share), gpt, adapter(settings, source, gpt)?, data)
    };
    let fits = |settings: &Settings| memory::fits(&built(settings, gpt)?, gpu, settings);
    let Some(training) = data.training.as_ref().filter(|_| settings.train) else {
        return Ok((with(Precision::F32, None), None));
    };
    let few = precision::first_blocks(gpt);
    let probe = |precision| built(&with(precision, None), &few);
    let room = |precision| fits(&with(precision, None));
    let batch = training.batch(settings.seed, 0).of_rank(0, ranks)?;
    let Choice { precision, why } = precision::choose(gpu, room, probe, &batch).await?;
    let chosen = with(precision, None);
    if settings.quantize.is_none() && settings.is_adapter() && !fits(&chosen)? {
        for blocks in BLOCKS {
            for precision in [Precision::F32, Precision::Bf16] {
                let smaller = with(precision, Some(blocks));
                if fits(&smaller)? {
                    let why = format!(
                        "{precision}, and {blocks} for the weights of the model: it does not fit \
                         into the memory otherwise"
                    );
                    return Ok((smaller, Some(why)));
                }
            }
        }
    }
    Ok((chosen, Some(format!("{precision}: {why}"))))
}

fn named(precision: Precision) -> PrecisionName {
    match precision {
        Precision::F32 => PrecisionName::F32,
        Precision::F16 => PrecisionName::F16,
        Precision::Bf16 => PrecisionName::Bf16,
    }
}
