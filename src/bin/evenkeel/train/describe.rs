//! A run in words: before it begins, in the head of its report, and at its end.

use clap::ValueEnum;
use evenkeel::Gpu;
use evenkeel::nn::LanguageModel;
use evenkeel::run::{Outputs, say};
use evenkeel::train::{MemoryPlan, Trainer};
use evenkeel::watch::Report;

use super::dial::Reason;
use super::options::Options;
use super::session::Ended;
use super::settings::Settings;
use super::{config, tokens::Tokens};
use crate::ranks::{Share, rounds};

/// The adapter, and what was read.
pub fn ground(gpu: &Gpu, tokens: &Tokens) {
    let software = if gpu.is_software() { "software" } else { "hardware" };
    say!("adapter  {} ({:?}, {software})", gpu.info.name, gpu.info.backend);
    let Tokens { name, lexicon, cache, counted, .. } = tokens;
    let counted = counted.map(|counted| format!(", {counted} of which count for the loss"));
    let counted = counted.unwrap_or_default();
    say!("data     {name}: {} tokens{counted}, vocabulary of {}", cache.tokens(), lexicon.unit);
    let how = match cache.made_because() {
        Some(why) => format!("made, as {why}"),
        None => "those of an earlier start; nothing is tokenized again".to_owned(),
    };
    say!("tokens   {}: {how}", cache.path().display());
}

/// How many ranks there are, and on which adapters: one line, however many they are.
pub fn devices(of_ranks: &[String]) {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for device in of_ranks {
        match kinds.iter_mut().find(|(kind, _)| kind == device) {
            Some((_, count)) => *count += 1,
            None => kinds.push((device, 1)),
        }
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
    if !kinds.is_empty() {
        say!("ranks    {} on {}", of_ranks.len(), kinds.join(", "));
    }
}

/// What each rank has of a step.
pub fn share(settings: &Settings, share: Share, ranks: usize) -> String {
    let Share { batch, accumulation } = share;
    let context = settings.context;
    let cut = if share.cuts_microbatches(settings.batch) {
        "; microbatches are cut, so that bits are others than on fewer ranks"
    } else {
        ""
    };
    let rounds = settings.diloco.map_or_else(String::new, |diloco| {
        format!(" by itself, and meets the others every {} steps", diloco.inner_steps)
    });
    let sharded = match settings.shard_optimizer {
        true => ", and keeps the moments of a part of the weights",
        false => "",
    };
    format!(
        "each of {ranks} ranks takes {accumulation} x {batch} x {context} tokens of a \
         step{sharded}{rounds}{cut}"
    )
}

/// Why settings are what they are, a line for each.
pub fn reasons(reasons: &[Reason]) {
    for Reason { setting, value, why } in reasons {
        say!("{setting:<13} {value:<9} {why}");
    }
}

/// The model, the memory, the step and the run, which learns from so many tokens.
pub fn settings(settings: &Settings, trainer: &Trainer<LanguageModel>, tokens: u64) {
    let report = trainer.report();
    say!(
        "model    {}; {} parameters in {} tensors",
        model(settings),
        report.parameters,
        report.tensors
    );
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    say!(
        "memory   {}: parameters {}, gradients {}, moments {}, activations {}",
        mib(report.total_bytes()),
        mib(report.parameter_bytes),
        mib(report.gradient_bytes),
        mib(report.moment_bytes),
        mib(report.activation_bytes)
    );
    say!(
        "step     {} tokens ({} x {} x {}); {} dispatches",
        settings.tokens_per_step(),
        settings.accumulation,
        settings.batch,
        settings.context,
        trainer.microbatches() * report.model_dispatches + report.update_dispatches
    );
    say!(
        "run      {} steps, {}, learning rate {} (warm-up {}, then {}), clip {}, seed {}",
        settings.steps,
        name(&settings.rule),
        settings.learning_rate,
        settings.warmup,
        name(&settings.shape),
        clip(settings),
        settings.seed
    );
    if let Some(diloco) = &settings.diloco {
        say!("diloco   {}", rounds::outer(diloco, report.parameters));
    }
    let learned = (settings.steps * settings.tokens_per_step()) as f64;
    let passes = learned / tokens as f64;
    // Muennighoff et al. 2023, <https://arxiv.org/abs/2305.16264>.
    let advice = if passes > 4.0 { "; what is new in a pass falls after the fourth" } else { "" };
    say!("passes   {passes:.2} over the {tokens} tokens to learn{advice}");
}

/// As it is called on the command line.
fn name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn model(settings: &Settings) -> String {
    let config = settings.gpt.config();
    format!(
        "{} ({}): {} layers, {} heads, width {}, context {}",
        settings.name,
        settings.config.family().model_type(),
        config.layers,
        config.heads,
        config.width,
        settings.context
    )
}

fn clip(settings: &Settings) -> String {
    if settings.clip > 0.0 { settings.clip.to_string() } else { "off".into() }
}

/// A report with the same facts and nothing in it yet.
pub fn report(settings: &Settings, trainer: &Trainer<LanguageModel>) -> (String, Report) {
    let (gpu, sizes) = (trainer.gpu(), trainer.report());
    let title = format!("{}: {} parameters", gpu.info.name, sizes.parameters);
    let mut report = Report::new(&title)
        .fact("adapter", format!("{} ({:?})", gpu.info.name, gpu.info.backend))
        .fact("model", model(settings))
        .fact("tokens in a step", settings.tokens_per_step().to_string())
        .fact("optimizer", name(&settings.rule))
        .fact("learning rate", settings.learning_rate.to_string())
        .fact("clip", clip(settings))
        .fact("seed", settings.seed.to_string())
        .baseline("guessing at random", (settings.gpt.config().vocabulary as f64).ln())
        .warmup(settings.warmup as u64);
    if settings.clip > 0.0 {
        report = report.threshold(settings.clip.into());
    }
    (title, report)
}

/// The resolved options as a file for --config, in YAML: values in JSON's form are that, too.
pub fn options(options: &Options) -> String {
    config::given(options).iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

/// What a run would take.
pub fn memory(plan: &MemoryPlan) {
    // Behind `#`, so that all of it is one file.
    say!("# {} parameters", plan.parameters);
    plan.to_string().lines().for_each(|line| say!("# {line}"));
}

/// Says what lies where.
pub fn outputs(outputs: &Outputs, ended: &Ended, sampled: bool) {
    outputs.print(sampled);
    if let Some(folder) = &ended.model {
        say!("model    {}", folder.display());
    }
    if let Some(data) = ended.loader.filter(|data| data.batches > 0) {
        say!(
            "loader   {:.0} batches/s could be made, {:.1} were taken; the run waited for them {:.1} \
             % of the time",
            data.batches_per_second(),
            data.taken_per_second(),
            100.0 * data.waiting_share()
        );
    }
    if let Some(best) = ended.best {
        say!("best     validation loss {:.3} after {} steps", best.loss, best.step);
    }
}
