//! How probable a model finds texts.

use evenkeel::data::Sequence;
use evenkeel::nn::{Gpt, LanguageModel};
use evenkeel::run::Signals;
use evenkeel::train::{Batch, IGNORE, Model, Predictor};
use evenkeel::{Error, Result};

use crate::loaded::Loaded;

/// The shortest length that sequences are padded to; others are twice as long as the one before.
const SHORTEST: usize = 64;

/// A batch that was scored.
#[derive(Debug, PartialEq)]
pub struct Scored {
    /// Which of the sequences.
    pub sequences: Vec<usize>,
    /// The sum over their counted targets of -ln p, in nats.
    pub loss: f64,
    /// How many targets these are.
    pub counted: usize,
}

/// Scores sequences of at most `longest` positions, `rows` at a time, until a signal comes. Those of
/// like length go together; `progress` hears how many are done. The sum of a batch has the accuracy of
/// the mean that the device computes in f32.
pub async fn score(
    loaded: &Loaded,
    gpt: &Gpt,
    sequences: &[Sequence],
    (rows, longest): (usize, usize),
    signals: &Signals,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Scored>> {
    let mut order: Vec<_> = (0..sequences.len()).collect();
    order.retain(|&index| counted(&sequences[index]) > 0);
    order.sort_by_key(|&index| sequences[index].tokens.len());
    let (mut scored, mut done) = (Vec::new(), 0);
    let length_of = |index: &usize| padded(sequences[*index].tokens.len(), longest);
    // One predictor at a time has memory.
    for same in order.chunk_by(|a, b| length_of(a) == length_of(b)) {
        let length = length_of(&same[0]);
        let model = LanguageModel { gpt: gpt.clone(), batch: rows, time: length };
        let predictor =
            Predictor::new(&loaded.gpu, &loaded.parameters, |graph| vec![model.build(graph).loss]);
        let predictor = predictor.await?;
        for indices in same.chunks(rows) {
            if signals.received().is_some() {
                return Ok(scored);
            }
            let batch = batch(sequences, indices, (rows, length));
            let mean = f64::from(predictor.run(&batch).await?[0][0]);
            let counted = indices.iter().map(|&index| counted(&sequences[index])).sum();
            if !mean.is_finite() {
                return Err(not_finite(indices[0], mean));
            }
            let loss = mean * counted as f64;
            scored.push(Scored { sequences: indices.to_vec(), loss, counted });
            done += indices.len();
            progress(done);
        }
    }
    Ok(scored)
}

/// How many targets of a sequence count.
pub fn counted(sequence: &Sequence) -> usize {
    sequence.targets.iter().filter(|&&target| target != IGNORE).count()
}

/// The length that a sequence of so many positions is padded to.
fn padded(positions: usize, longest: usize) -> usize {
    positions.next_power_of_two().max(SHORTEST).min(longest)
}

/// Rows that are not there are all padding, which counts for nothing.
fn batch(sequences: &[Sequence], indices: &[usize], (rows, length): (usize, usize)) -> Batch {
    let (mut tokens, mut targets) = (vec![0; rows * length], vec![IGNORE; rows * length]);
    for (row, &index) in indices.iter().enumerate() {
        let sequence = &sequences[index];
        let place = row * length..row * length + sequence.tokens.len();
        tokens[place.clone()].copy_from_slice(&sequence.tokens);
        targets[place].copy_from_slice(&sequence.targets);
    }
    Batch::new().with("tokens", tokens).with("targets", targets)
}

fn not_finite(index: usize, value: f64) -> Error {
    Error::NonFinite {
        what: "the loss of the sequences".to_owned(),
        index,
        value: value as f32,
        advice: "look for weights that are not finite with `evenkeel inspect --statistics`".into(),
    }
}

/// A text in pieces of at most `context` inputs, each begun `stride` positions behind the one before:
/// each token counts once, with as much as there is before it in its piece.
pub fn pieces(
    tokens: &[u32],
    counts: impl Fn(usize) -> bool,
    context: usize,
    stride: usize,
) -> Vec<Sequence> {
    let (mut pieces, mut start, mut seen) = (Vec::new(), 0, 1);
    while seen < tokens.len() {
        let end = tokens.len().min(start + context + 1);
        // Targets before `seen` have counted already.
        let target = |at: usize| if at >= seen && counts(at) { tokens[at] } else { IGNORE };
        let targets = (start + 1..end).map(target).collect();
        pieces.push(Sequence { tokens: tokens[start..end - 1].to_vec(), targets });
        (seen, start) = (end, start + stride);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_counts_once() {
        let tokens: Vec<u32> = (100..123).collect();
        for (context, stride) in [(5, 5), (5, 2), (5, 1), (22, 22), (30, 7), (1, 1)] {
            let mut found = Vec::new();
            for Sequence { tokens, targets } in pieces(&tokens, |at| at != 4, context, stride) {
                assert!(tokens.len() <= context && tokens.len() == targets.len());
                for (token, target) in tokens.iter().zip(targets) {
                    if target != IGNORE {
                        assert_eq!(target, token + 1);
                        found.push(target);
                    }
                }
            }
            let expected: Vec<_> = (101..123).filter(|&token| token != 104).collect();
            assert_eq!(found, expected, "{context} {stride}");
        }
        assert_eq!(pieces(&[7], |_| true, 5, 5), []);
    }

    #[test]
    fn lengths_are_few() {
        let lengths = [1, 64, 65, 200, 300, 500].map(|positions| padded(positions, 500));
        assert_eq!(lengths, [64, 64, 128, 256, 500, 500]);
        assert_eq!(padded(3, 16), 16);
    }
}
