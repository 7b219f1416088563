//! A run in words: before it begins, and in the head of its report.

use super::{Settings, say};
use crate::data::{Corpus, Vocabulary};
use crate::nn::LanguageModel;
use crate::train::Trainer;
use crate::watch::Report;

/// Prints adapter, text, model, memory, step and run.
pub fn describe(corpus: &Corpus, settings: &Settings, trainer: &Trainer<LanguageModel>) {
    let (gpu, report, config) = (trainer.gpu(), trainer.report(), settings.gpt.config());
    let software = if gpu.is_software() { "software" } else { "hardware" };
    say!("adapter  {} ({:?}, {software})", gpu.info.name, gpu.info.backend);
    let unit = match corpus.vocabulary() {
        Vocabulary::Characters(characters) => format!("{} characters", characters.len()),
        Vocabulary::Bytes => "256 bytes".into(),
    };
    let (name, tokens) = (corpus.name(), corpus.tokens().len());
    say!("text     {name}: {tokens} tokens, vocabulary of {unit}");
    say!(
        "model    {}: {} layers, {} heads, width {}, context {}; {} parameters in {} tensors",
        settings.name,
        config.layers,
        config.heads,
        config.width,
        config.context,
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
    let microbatches = settings.accumulation;
    say!(
        "step     {} tokens ({microbatches} x {} x {}); {} dispatches in one submit",
        microbatches * settings.batch * settings.context,
        settings.batch,
        settings.context,
        microbatches * report.model_dispatches + report.update_dispatches
    );
    say!(
        "run      {} steps, learning rate {} (warm-up {}, then cosine), clip {}, seed {}",
        settings.steps,
        settings.optimizer.learning_rate,
        settings.warmup,
        clip(settings),
        settings.seed
    );
}

fn clip(settings: &Settings) -> String {
    if settings.clip > 0.0 { settings.clip.to_string() } else { "off".into() }
}

/// A report with the same facts and nothing in it yet.
pub(super) fn report(settings: &Settings, trainer: &Trainer<LanguageModel>) -> (String, Report) {
    let (gpu, sizes, config) = (trainer.gpu(), trainer.report(), settings.gpt.config());
    let title = format!("{}: {} parameters", gpu.info.name, sizes.parameters);
    let model = format!(
        "{}: {} layers, {} heads, width {}, context {}",
        settings.name, config.layers, config.heads, config.width, config.context
    );
    let tokens = settings.accumulation * settings.batch * settings.context;
    let mut report = Report::new(&title)
        .fact("adapter", format!("{} ({:?})", gpu.info.name, gpu.info.backend))
        .fact("model", model)
        .fact("tokens in a step", tokens.to_string())
        .fact("learning rate", settings.optimizer.learning_rate.to_string())
        .fact("clip", clip(settings))
        .fact("seed", settings.seed.to_string())
        .baseline("guessing at random", (config.vocabulary as f64).ln())
        .warmup(settings.warmup as u64);
    if settings.clip > 0.0 {
        report = report.threshold(settings.clip.into());
    }
    (title, report)
}
