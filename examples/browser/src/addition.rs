//! Addition as a language: `27+35=260` is 27 + 35 = 062, its sum written from the last digit on,
//! the order in which one carries.
//!
//! A tenth of all problems is held out. Only the digits of the sum count in the loss.

use evenkeel::reference::random::threefry4x32;
use evenkeel::train::{Batch, IGNORE};
use evenkeel::{Error, Result};

/// Digits 0 to 9, then these two.
const PLUS: u32 = 10;
const EQUALS: u32 = 11;
/// Tokens of the language.
pub const VOCABULARY: usize = 12;

/// One problem in this many is never trained on.
const HELD_OUT: u32 = 10;
/// Key words of the random streams, apart from those of the library.
const DOMAIN_PROBLEMS: u32 = 101;
const DOMAIN_SPLIT: u32 = 102;

/// Addition of two numbers of a fixed number of digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addition {
    digits: u32,
}

/// Two numbers to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The first number.
    pub a: u32,
    /// The second.
    pub b: u32,
}

/// Which problems are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Those to train on.
    Training,
    /// Those that are held out.
    HeldOut,
}

impl Addition {
    /// Addition of numbers of 1 to 4 digits.
    ///
    /// # Errors
    /// [`Error::Setting`] for other numbers of digits.
    pub fn new(digits: u32) -> Result<Self> {
        if !(1..=4).contains(&digits) {
            let (setting, value) = ("digits of the numbers to add", digits.to_string());
            return Err(Error::Setting { setting, value, range: "1 to 4" });
        }
        Ok(Self { digits })
    }

    /// Positions of a sequence: all tokens of a problem but the last.
    pub fn context(&self) -> usize {
        3 * self.digits as usize + 2
    }

    /// Tokens in front of the sum.
    fn question_length(&self) -> usize {
        2 * self.digits as usize + 2
    }

    /// Problem `row` of batch `index` of a seed; the same arguments always give the same.
    fn draw(&self, part: Part, seed: u32, index: u64, row: u32) -> Problem {
        let bound = 10u32.pow(self.digits);
        let key = [seed, 0, 0, DOMAIN_PROBLEMS];
        let drawn = (0u32..).map(|attempt| {
            let counter = [row, index as u32, (index >> 32) as u32, attempt];
            let [a, b, ..] = threefry4x32(counter, key);
            Problem { a: a % bound, b: b % bound }
        });
        drawn.into_iter().find(|&p| self.part(p) == part).expect("both parts have problems")
    }

    fn part(&self, problem: Problem) -> Part {
        let Problem { a, b } = problem;
        let [word, ..] = threefry4x32([a, b, self.digits, 0], [0, 0, 0, DOMAIN_SPLIT]);
        if word % HELD_OUT == 0 { Part::HeldOut } else { Part::Training }
    }

    /// `count` problems of batch `index`.
    pub fn problems(&self, part: Part, seed: u32, index: u64, count: usize) -> Vec<Problem> {
        (0..count as u32).map(|row| self.draw(part, seed, index, row)).collect()
    }

    /// All tokens of a problem: a, +, b, =, and the sum from its last digit on.
    pub fn tokens(&self, problem: Problem) -> Vec<u32> {
        let Problem { a, b } = problem;
        let digit = |number: u32, place: u32| number / 10u32.pow(place) % 10;
        let number = |number| (0..self.digits).rev().map(move |place| digit(number, place));
        let sum = (0..=self.digits).map(|place| digit(a + b, place));
        let mut tokens: Vec<_> = number(a).collect();
        tokens.push(PLUS);
        tokens.extend(number(b));
        tokens.push(EQUALS);
        tokens.extend(sum);
        tokens
    }

    /// A batch of problems: inputs `tokens` and `targets`.
    pub fn batch(&self, part: Part, seed: u32, index: u64, count: usize) -> Batch {
        let first_counted = self.question_length() - 1;
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for problem in self.problems(part, seed, index, count) {
            let all = self.tokens(problem);
            tokens.extend_from_slice(&all[..all.len() - 1]);
            targets.extend(
                (1..all.len()).map(
                    |position| {
                        if position > first_counted { all[position] } else { IGNORE }
                    },
                ),
            );
        }
        Batch::new().with("tokens", tokens).with("targets", targets)
    }

    /// Sequences that hold the questions of `problems`; what follows them is zero.
    pub fn questions(&self, problems: &[Problem]) -> Vec<u32> {
        let question = |&problem: &Problem| {
            let mut tokens = self.tokens(problem)[..self.question_length()].to_vec();
            tokens.resize(self.context(), 0);
            tokens
        };
        problems.iter().flat_map(question).collect()
    }

    /// Positions whose predictions are the digits of the sum, from the last one on.
    pub fn sum_positions(&self) -> std::ops::Range<usize> {
        self.question_length() - 1..self.context()
    }

    /// The sum that digits make, from the last one on; `None` where one is no digit.
    pub fn sum(digits: &[u32]) -> Option<u32> {
        let digit =
            |(place, &digit): (usize, &u32)| (digit < 10).then(|| digit * 10u32.pow(place as u32));
        digits.iter().enumerate().map(digit).sum()
    }

    /// Digits as a text, the first one first; `?` for what is no digit.
    pub fn digits_text(digits: &[u32]) -> String {
        let digit = |&digit: &u32| char::from_digit(digit, 10).unwrap_or('?');
        digits.iter().rev().map(digit).collect()
    }

    /// Reads a question such as `27 + 35` or `27+35=`.
    ///
    /// # Errors
    /// [`Error::Data`] where it is none, or a number has too many digits.
    pub fn parse(&self, text: &str) -> Result<Problem> {
        let digits = self.digits;
        let bad = |reason: String| Error::Data { what: format!("the question {text:?}"), reason };
        let example = || bad("write two numbers, as in 7+35".into());
        let (a, b) = text.trim_end_matches(['=', ' ']).split_once('+').ok_or_else(example)?;
        let number = |text: &str| -> Result<u32> {
            let number: u32 = text.trim().parse().map_err(|_| example())?;
            if number >= 10u32.pow(digits) {
                return Err(bad(format!("this model adds numbers of at most {digits} digits")));
            }
            Ok(number)
        };
        Ok(Problem { a: number(a)?, b: number(b)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_written_from_the_last_digit_on() {
        let addition = Addition::new(2).unwrap();
        let tokens = addition.tokens(Problem { a: 7, b: 98 });
        assert_eq!(tokens, [0, 7, PLUS, 9, 8, EQUALS, 5, 0, 1]);
        assert_eq!(tokens.len(), addition.context() + 1);
        assert_eq!(Addition::sum(&tokens[6..]), Some(105));
        assert_eq!(Addition::digits_text(&tokens[6..]), "105");
        assert_eq!(Addition::sum(&[1, PLUS, 2]), None);
        assert_eq!(Addition::digits_text(&[1, PLUS, 2]), "2?1");
        assert_eq!(addition.sum_positions(), 5..8);
        let question = addition.questions(&[Problem { a: 7, b: 98 }]);
        assert_eq!(question, [0, 7, PLUS, 9, 8, EQUALS, 0, 0]);
    }

    #[test]
    fn only_the_sum_counts() {
        let addition = Addition::new(1).unwrap();
        let problem = addition.problems(Part::Training, 3, 0, 1)[0];
        let all = addition.tokens(problem);
        let expected = Batch::new()
            .with("tokens", &all[..5])
            .with("targets", vec![IGNORE, IGNORE, IGNORE, all[4], all[5]]);
        assert_eq!(addition.batch(Part::Training, 3, 0, 1), expected);
    }

    #[test]
    fn held_out_problems_are_never_trained_on() {
        let addition = Addition::new(2).unwrap();
        let held_out = addition.problems(Part::HeldOut, 1, 0, 500);
        for index in 0..20 {
            for problem in addition.problems(Part::Training, 1, index, 500) {
                assert!(!held_out.contains(&problem), "{problem:?}");
            }
        }
        let all = (0..100).flat_map(|a| (0..100).map(move |b| Problem { a, b }));
        let share = all.filter(|&p| addition.part(p) == Part::HeldOut).count();
        // Binomial: 1,000 expected, standard deviation 30.
        assert!((850..=1150).contains(&share), "{share}");
    }

    #[test]
    fn questions_are_read_and_bad_ones_refused() {
        let addition = Addition::new(2).unwrap();
        for text in ["7+35", " 7 + 35 = ", "07+35="] {
            assert_eq!(addition.parse(text).unwrap(), Problem { a: 7, b: 35 }, "{text}");
        }
        let error = addition.parse("100+1").unwrap_err().to_string();
        assert!(error.contains("\"100+1\"") && error.contains("at most 2 digits"), "{error}");
        for text in ["", "7", "a+b", "7+-1"] {
            assert!(addition.parse(text).unwrap_err().to_string().contains("7+35"), "{text}");
        }
        assert!(Addition::new(5).unwrap_err().to_string().contains("1 to 4"));
    }
}
