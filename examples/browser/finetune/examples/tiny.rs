//! Writes the model and the lines that the tests in `tests/tiny` use.
//!
//! ```text
//! cargo run --package evenkeel-browser-finetune --example tiny -- examples/browser/finetune/tests/tiny
//! ```

use std::error::Error;
use std::fs;
use std::path::Path;

use evenkeel::data::{PaddedBatches, Sequence};
use evenkeel::hugging_face::Folder;
use evenkeel::nn::{Gpt, LanguageModel};
use evenkeel::text::{Examples, LossOn, Supervision, Tokenizer};
use evenkeel::train::{AdamW, Clip, Lengths, Schedule, Trainer};
use evenkeel::{Gpu, block_on};
use serde_json::json;

#[path = "../tests/place/mod.rs"]
mod programs;
#[path = "../../../../tests/support/tiny_model.rs"]
mod tiny_model;

const MODEL: [&str; 4] =
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// Questions and answers to learn from, in turn.
const TRAINING: [[&str; 2]; 8] = [
    ["What keeps the boat even?", "The keel."],
    ["Who clips the gradients?", "A trainer."],
    ["What does a sail catch?", "The wind."],
    ["Where does the wind blow?", "Überall, auch am Äquator ⛵."],
    ["What is below the boat?", "The keel."],
    ["What does a trainer clip?", "The gradients."],
    ["What catches the wind?", "A sail."],
    ["What is a keel for?", "It keeps the boat even."],
];
/// And to validate on.
const VALIDATION: [[&str; 2]; 3] = [
    ["What keeps a boat even?", "The keel."],
    ["Who clips gradients?", "A trainer."],
    ["What do sails catch?", "The wind."],
];

/// Steps that the model is trained on its own.
const STEPS: usize = 800;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("give the folder to write into")?;
    let folder = Path::new(&folder);
    let gpu = block_on(Gpu::new())?;
    let place = programs::Place::new();
    let model = tiny_model::write_model(&gpu, &place);
    block_on(train(&gpu, Path::new(&model)))?;
    fs::create_dir_all(folder)?;
    for name in MODEL {
        fs::copy(Path::new(&model).join(name), folder.join(name))?;
    }
    fs::write(folder.join("train.jsonl"), lines(&TRAINING))?;
    fs::write(folder.join("valid.jsonl"), lines(&VALIDATION))?;
    Ok(())
}

/// Teaches the model to answer each question, but with the answer of another: it knows the words,
/// and has something to learn.
async fn train(gpu: &Gpu, folder: &Path) -> Result<(), Box<dyn Error>> {
    let answers = TRAINING.iter().cycle().skip(3);
    let wrong: Vec<_> =
        TRAINING.iter().zip(answers).map(|(one, other)| [one[0], other[1]]).collect();
    let examples = Examples::parse("wrong answers", lines(&wrong).as_bytes())?;
    let supervision = Supervision { loss_on: LossOn::All, ..Supervision::default() };
    let (samples, _) = supervision.encode_all(&Tokenizer::open(folder)?, &examples)?;
    let sequences: Vec<_> = samples.iter().map(Sequence::from).collect();
    let longest = sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(1);
    let lengths = Lengths::up_to(longest)?;
    let batches = PaddedBatches::new(sequences, lengths.clone(), 8)?;
    let source = Folder::open(folder)?;
    let gpt = Gpt::new(source.config().gpt.clone())?;
    let mut trainer = Trainer::builder(LanguageModel { gpt, batch: 8, time: longest })
        .optimizer(AdamW { learning_rate: 5e-3, ..AdamW::default() })
        .schedule(Schedule::Cosine { warmup: 20, total: STEPS, final_factor: 0.05 })
        .clip(Clip::Norm(1.0))
        .lengths(lengths)
        .build(gpu)
        .await?;
    trainer.load_weights(&mut source.reader(|_| {})).await?;
    for (step, batch) in (1..=STEPS).zip(batches.batches(0, 0)) {
        trainer.step(&batch).await?;
        if step.is_multiple_of(STEPS / 8) {
            let last = trainer.telemetry().await?.pop().ok_or("a step")?;
            println!("step {step}: loss {:.3}", last.loss);
        }
    }
    source.export().save(trainer.parameters(), folder).await?;
    Ok(())
}

fn lines(pairs: &[[&str; 2]]) -> String {
    let line = |[question, answer]: &[&str; 2]| {
        let message = |role: &str, content: &str| json!({ "role": role, "content": content });
        let messages = [message("user", question), message("assistant", answer)];
        format!("{}\n", json!({ "messages": messages }))
    };
    pairs.iter().map(line).collect()
}
