//! `evenkeel lora`: fine-tunes a model with adapters, or all of it. Options, configuration files and
//! data are those of `mlx_lm.lora`.
//!
//! The folder of a run (`--adapter-path`) holds:
//!
//! | | |
//! |---|---|
//! | `adapter_config.json`, `adapter_model.safetensors` | the last adapter, as PEFT has it; or mlx-lm's files; or, where all is trained, the folder of a model. With `--ema` here and below it is the average |
//! | `best/` | the one with the lowest validation loss |
//! | `0000100/` | the one after iteration 100 (`--save-every`) |
//! | `mlx/` | the last one as mlx-lm has it, where both layouts are asked for |
//! | `settings.yaml` | all settings, as they were resolved |
//! | `metrics.jsonl` | a line for every step, with whatever happened in it |
//! | `state.safetensors`, `state.previous.safetensors` | what `--resume` goes on from: trained weights, moments, counters, position in the data |

mod adapter;
mod data;
mod memory;
mod optimizer;
mod options;
mod progress;
mod reactions;
mod records;
mod replay;
mod result;
mod resume;
mod schedule;
mod session;
mod settings;
mod setup;
mod sources;
mod storage;

use evenkeel::run::{self, Ending, Signals};
use evenkeel::{Error, Gpu, Result};

pub use options::Options;
pub use replay::Replay;
use resume::Start;
use session::Session;
use setup::Setup;

use crate::regain::{self, Regain};

pub async fn run(options: Options) -> Result<Ending> {
    if options.json {
        run::say_aside();
    }
    let signals = Signals::listen()?;
    options.check()?;
    let mut start = Start::find(&options)?;
    let settings = start.settings();
    settings.validate()?;
    if !settings.train && !settings.test {
        return Err(Error::Unsupported {
            what: "neither training nor testing".to_owned(),
            instead: "give at least one of --train and --test".to_owned(),
        });
    }
    settings.model()?;
    let gpu = Gpu::new().await?;
    let setup = Setup::choosing(settings, &gpu, options.quiet).await?;
    start.check_data(&setup.data)?;
    if options.dry_run {
        setup.print(&gpu)?;
        return Ok(Ending::Done);
    }
    if !setup.settings.train {
        let loss = setup::test_saved(&setup, &gpu).await?;
        if options.json {
            let result = serde_json::json!({ "test": loss.map(result::test) });
            run::print_result(format_args!("{result}"));
        }
        return Ok(Ending::Done);
    }
    if !options.quiet {
        setup.say_what_is_trained();
    }
    let once = async |regain: &mut Regain| {
        start.read_again()?;
        let mut session = Session::begin(&setup, regain, &signals, &start).await?;
        start.has_begun();
        let ending = session.train().await?;
        if ending == Ending::Done && setup.settings.test {
            session.test().await?;
        }
        if options.json {
            run::print_result(format_args!("{}", session.result()));
        }
        Ok(ending)
    };
    regain::trying(gpu, &options.lose_device_at, &signals, once).await
}
