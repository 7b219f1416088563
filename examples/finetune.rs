//! Teaches a model of Hugging Face's or llama.cpp's what JSON lines say, with low-rank adapters
//! beside its linear layers: a program in one file, to copy and to begin with.
//!
//! ```text
//! cargo run --release --example finetune -- SmolLM2-135M-Instruct chats.jsonl --out adapter
//! cargo run --release --example chat -- SmolLM2-135M-Instruct --adapter adapter
//! ```
//!
//! A line is a conversation (`{"messages": [...]}`), a `prompt` with its `completion`, or a `text`.
//! What comes out is a folder of PEFT's form. `evenkeel lora` is the program with all else around.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use evenkeel::data::{PaddedBatches, Sequence};
use evenkeel::hugging_face::AdapterExport;
use evenkeel::nn::{Gpt, GptConfig, LanguageModel, Lora, Targets};
use evenkeel::run::{Folder, Source, finish, say};
use evenkeel::text::{Completions, Examples, Supervision};
use evenkeel::train::{AdamW, Clip, Lengths, Schedule, Trainer};
use evenkeel::{Gpu, Result};

/// Lines in a step.
const BATCH: usize = 4;
/// Tokens of a line at most; what is longer is cut.
const CONTEXT: usize = 512;
/// Steps between two lines of progress.
const REPORT_EVERY: usize = 10;
/// Of the adapter and of the order of lines.
const SEED: u32 = 0;

/// Fine-tunes a model on JSON lines.
#[derive(Debug, Parser)]
#[command(name = "finetune")]
struct Options {
    /// A folder with config.json, model.safetensors and tokenizer.json, or a .gguf file.
    model: PathBuf,
    /// Lines with messages, a prompt and a completion, or a text.
    #[arg(value_name = "DATA.jsonl")]
    data: PathBuf,
    /// Folder for the adapter.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Steps.
    #[arg(long, value_name = "N", default_value_t = 200)]
    steps: usize,
    /// Highest learning rate.
    #[arg(long, value_name = "X", default_value_t = 1e-4, allow_negative_numbers = true)]
    lr: f64,
}

fn main() -> ExitCode {
    finish(pollster::block_on(finetune(&Options::parse())))
}

async fn finetune(options: &Options) -> Result<()> {
    let source = Source::open(&options.model, None)?;
    let base = source.config().gpt.clone();
    let out = Folder::claim(&options.out, "--out")?;

    // Answers and completions are learned, and not what they answer.
    let examples = Examples::read(&options.data)?;
    let is_chat = source.tokenizer.chat_template("default").is_some();
    let supervision = Supervision {
        completions: if is_chat { Completions::Chat } else { Completions::Plain },
        context: Some(base.context.min(CONTEXT)),
        ..Supervision::default()
    };
    let (samples, summary) = supervision.encode_all(&source.tokenizer, &examples)?;
    say!("{}: {summary}", examples.name());
    // A batch is padded to one of a few lengths, so that short lines cost little.
    let longest = samples.iter().map(|sample| sample.inputs().len()).max().unwrap_or(1);
    let lengths = Lengths::up_to(longest)?;
    let lines = PaddedBatches::new(samples.iter().map(Sequence::from), lengths.clone(), BATCH)?;

    // The model itself stays as it is.
    let lora = Lora::new(16, 16.0, Targets::AllLinear);
    let gpt = Gpt::new(GptConfig { lora: Some(lora.clone()), ..base })?;
    let gpu = Gpu::new().await?;
    let (learning_rate, warmup, total) = (options.lr, options.steps / 20, options.steps);
    let model = LanguageModel { gpt, batch: BATCH, time: lengths.longest() };
    let mut trainer = Trainer::builder(model)
        .optimizer(AdamW { learning_rate, weight_decay: 0.0, ..AdamW::default() })
        .schedule(Schedule::Cosine { warmup, total, final_factor: 0.1 })
        .clip(Clip::Norm(1.0))
        .lengths(lengths)
        .seed(SEED)
        .build(&gpu)
        .await?;
    trainer.load_weights(&mut source.reader()).await?;
    let (learn, stay) = (trainer.report().parameters, trainer.report().frozen_parameters);
    say!("{learn} parameters learn beside {stay} that do not, on {}", gpu.info.name);

    for (step, batch) in (1..=total).zip(lines.batches(SEED, 0)) {
        trainer.step(&batch).await?;
        if step.is_multiple_of(REPORT_EVERY) || step == total {
            // A step with a NaN or Inf in its loss or gradients changes nothing.
            let records = trainer.telemetry().await?;
            let applied = records.iter().filter(|record| record.applied);
            let losses: Vec<_> = applied.map(|record| record.loss).collect();
            let (loss, skipped) = (losses.iter().sum::<f32>(), records.len() - losses.len());
            say!("step {step}: loss {:.4}, {skipped} skipped", loss / losses.len() as f32);
        }
    }
    let export = AdapterExport::new(source.config(), lora)?;
    let export = export.base_model(&options.model.to_string_lossy());
    export.save(trainer.parameters(), out.path()).await?;
    say!("wrote {}", out.path().display());
    Ok(())
}
