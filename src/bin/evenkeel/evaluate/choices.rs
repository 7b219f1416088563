//! Questions with choices, as lm-evaluation-harness scores them: the choice that the model finds most
//! probable behind the question is its answer.

use std::path::Path;

use evenkeel::data::Sequence;
use evenkeel::text::Tokenizer;
use evenkeel::train::IGNORE;
use evenkeel::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Measured, Measuring, Sizes, say_partial, text_of, wrong_line};

/// A line of the file.
#[derive(Debug, Deserialize)]
struct Record {
    question: String,
    choices: Vec<String>,
    answer: Value,
}

#[derive(Debug)]
struct Question {
    /// The right one of its choices.
    answer: usize,
    /// Characters of each choice.
    lengths: Vec<usize>,
}

/// Questions, and their choices one after the other.
#[derive(Debug)]
pub struct Questions {
    questions: Vec<Question>,
    sequences: Vec<Sequence>,
}

/// Reads a file of questions.
pub fn read(path: &Path, tokenizer: &Tokenizer, sizes: Sizes) -> Result<Questions> {
    let (name, text) = text_of(path)?;
    let (mut questions, mut sequences) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        if questions.len() == sizes.limit {
            break;
        }
        let wrong = |reason| wrong_line(&name, index, reason);
        let record: Record = serde_json::from_str(line).map_err(|error| {
            wrong(format!(
                "it is no {{\"question\": \"..\", \"choices\": [\"..\", \"..\"], \"answer\": 0}}: \
                 {error}"
            ))
        })?;
        let answer = answer(&record).map_err(wrong)?;
        for choice in &record.choices {
            let sequence = sequence(tokenizer, &record.question, choice, sizes.context);
            sequences.push(sequence.map_err(|error| wrong(error.to_string()))?);
        }
        let lengths = record.choices.iter().map(|choice| choice.chars().count()).collect();
        questions.push(Question { answer, lengths });
    }
    if questions.is_empty() {
        return Err(Error::Data { what: name, reason: "there are no questions in it".to_owned() });
    }
    Ok(Questions { questions, sequences })
}

/// The index of the right choice, or what is wrong in words.
fn answer(record: &Record) -> Result<usize, String> {
    let Record { choices, answer, .. } = record;
    if choices.len() < 2 || choices.iter().any(String::is_empty) {
        return Err("it has not at least two choices, none of them empty".to_owned());
    }
    let index = match answer {
        Value::String(text) => {
            let named = choices.iter().position(|choice| choice == text);
            named.or_else(|| letter(text))
        }
        other => other.as_u64().map(|index| index as usize),
    };
    index.filter(|&index| index < choices.len()).ok_or_else(|| {
        let last = choices.len() - 1;
        format!("its answer is {answer}, no index from 0 to {last}, no letter, none of its choices")
    })
}

/// A is 0.
fn letter(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    }
}

/// A question and a choice with a space between, of which the choice counts. Where that is longer than
/// the context the question loses its beginning.
fn sequence(
    tokenizer: &Tokenizer,
    question: &str,
    choice: &str,
    context: usize,
) -> Result<Sequence> {
    // Spaces belong to the words behind them, as in texts that models learn from.
    let asked = question.trim_end();
    let text = format!("{asked}{} {choice}", &question[asked.len()..]);
    let [whole, text, asked] = [
        tokenizer.encode(&text, true)?,
        tokenizer.encode(&text, false)?,
        tokenizer.encode(asked, false)?,
    ];
    // The tokens that begin a text for this model; such as end one are left out.
    let front = (0..=whole.len()).find(|&at| whole[at..].starts_with(&text)).unwrap_or(0);
    let tokens = [&whole[..front], &text].concat();
    let first = (front + asked.len()).max(1);
    let counted = tokens.len().saturating_sub(first);
    let data = |reason: String| Error::Data { what: format!("the choice {choice:?}"), reason };
    if counted == 0 {
        return Err(data("it adds no token to its question".to_owned()));
    }
    if counted > context {
        return Err(data(format!("it has {counted} tokens, and {context} are seen at most")));
    }
    let start = tokens.len().saturating_sub(context + 1);
    let target = |at: usize| if at >= first { tokens[at] } else { IGNORE };
    let targets = (start + 1..tokens.len()).map(target).collect();
    Ok(Sequence { tokens: tokens[start..tokens.len() - 1].to_vec(), targets })
}

impl Questions {
    /// Asks the model all of them, or until a signal comes.
    pub async fn measure(&self, measuring: &Measuring<'_>) -> Result<Measured> {
        // Each has a sum of its own.
        let scored = measuring.score("choices", &self.sequences, 1).await?;
        let mut losses = vec![None; self.sequences.len()];
        for choice in scored {
            losses[choice.sequences[0]] = Some(choice.loss);
        }
        let (mut asked, mut right, mut right_by_length, mut first) = (0, 0, 0, 0);
        for Question { answer, lengths } in &self.questions {
            let own = &losses[first..first + lengths.len()];
            first += lengths.len();
            let Some(own) = own.iter().copied().collect::<Option<Vec<f64>>>() else { continue };
            let by_length = own.iter().zip(lengths).map(|(loss, &length)| loss / length as f64);
            asked += 1;
            right += usize::from(least(own.iter().copied()) == *answer);
            right_by_length += usize::from(least(by_length) == *answer);
        }
        say_partial(asked, self.questions.len(), "questions");
        Ok(measured(asked, right, right_by_length))
    }
}

/// The index of the first of the least.
fn least(values: impl Iterator<Item = f64>) -> usize {
    let least = values.enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b));
    least.map_or(0, |(index, _)| index)
}

fn measured(asked: usize, right: usize, right_by_length: usize) -> Measured {
    let [plain, by_length] = [right, right_by_length].map(|right| {
        let share = right as f64 / asked.max(1) as f64;
        // That of a mean of samples.
        let error = (share * (1.0 - share) / asked.saturating_sub(1).max(1) as f64).sqrt();
        (share, error)
    });
    let line = format!(
        "accuracy {:.4} ± {:.4}, by length {:.4} ± {:.4}, over {asked} questions",
        plain.0, plain.1, by_length.0, by_length.1
    );
    let values = json!({
        "acc": plain.0,
        "acc_stderr": plain.1,
        "acc_norm": by_length.0,
        "acc_norm_stderr": by_length.1,
        "questions": asked,
    });
    Measured { values, line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_an_index_a_letter_or_a_choice() {
        let of = |value: Value| {
            let choices = ["yes", "A", "no"].map(str::to_owned).to_vec();
            answer(&Record { question: "?".into(), choices, answer: value })
        };
        let expected = [json!(2), json!("C"), json!("no")].map(of);
        assert_eq!(expected, [Ok(2), Ok(2), Ok(2)]);
        // A choice goes before a letter.
        assert_eq!(of(json!("A")), Ok(1));
        for wrong in [json!(3), json!(-1), json!("D"), json!("maybe"), json!(null), json!(0.5)] {
            assert!(of(wrong.clone()).is_err_and(|reason| reason.contains(&wrong.to_string())));
        }
    }
}
