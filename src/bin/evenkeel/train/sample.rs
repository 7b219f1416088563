//! Text that the model writes at the end.

use evenkeel::Result;
use evenkeel::file;
use evenkeel::nn::{Generator, LanguageModel};
use evenkeel::run::{self, Ending, Outputs, Signals};
use evenkeel::train::Trainer;

use super::session::learned;
use super::settings::Settings;
use super::tokens::Tokens;

/// Writes text token by token as it comes, and the whole of it to a file.
///
/// # Errors
/// Those of the device and of the file.
pub async fn write(
    trainer: &mut Trainer<LanguageModel>,
    settings: &Settings,
    tokens: &Tokens,
    prompt: &[u32],
    outputs: &Outputs,
    signals: &Signals,
) -> Result<Ending> {
    let (gpu, gpt) = (trainer.gpu().clone(), trainer.model().gpt.clone());
    let generator = Generator::new(&gpu, learned(trainer).await?, &gpt).await?;
    let mut stream = tokens.lexicon.tokenizer.decode_stream(true);
    let mut written = String::new();
    let mut show = |text: String| {
        run::print_bytes(text.as_bytes());
        written.push_str(&text);
    };
    run::print_bytes(b"\n--- sample ---\n");
    for &token in prompt {
        show(stream.push(token)?);
    }
    let (mut ids, mut generated) = (prompt.to_vec(), Ok(()));
    for index in 0..settings.sample {
        if signals.received().is_some() {
            break;
        }
        let logits = generator.logits(&ids).await;
        match logits.and_then(|logits| settings.sampling.draw(&logits, index as u32)) {
            Ok(token) => ids.push(token),
            Err(error) => {
                generated = Err(error);
                break;
            }
        }
        show(stream.push(ids[ids.len() - 1])?);
    }
    show(stream.finish()?);
    run::print_bytes(b"\n--- end ---\n");
    file::replace(&outputs.sample, written.as_bytes())?;
    generated.map(|()| signals.received().map_or(Ending::Done, Ending::Stopped))
}
