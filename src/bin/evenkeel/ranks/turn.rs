//! What ranks tell each other between steps: whether all go on, and what rank 0 needs of the others
//! before they do.

use evenkeel::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Ranks;

/// What one of them says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Whether it has something to go on with.
    Has(bool),
    /// Why it cannot go on.
    Failed(String),
    /// Rank 0 makes a checkpoint, and the others give what they alone have of it.
    Checkpoint,
}

impl Word {
    pub fn of<T>(own: &Result<Option<T>>) -> Self {
        match own {
            Ok(own) => Self::Has(own.is_some()),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// What this rank has, of what all have said.
///
/// # Errors
/// That of this rank; else [`Error::Rank`] with the first other one's.
pub fn joined<T>(own: Result<Option<T>>, all: Result<Vec<Word>>) -> Result<Option<T>> {
    let own = own?;
    let mut have = true;
    for (rank, word) in all?.into_iter().enumerate() {
        match word {
            Word::Has(has) => have &= has,
            Word::Failed(text) => {
                return Err(Error::Rank { rank, reason: format!("cannot go on: {text}") });
            }
            Word::Checkpoint => unreachable!("rank 0 asks nobody who does not listen"),
        }
    }
    Ok(own.filter(|_| have))
}

impl Ranks {
    /// What all say; `None` where there is one.
    pub(super) fn words(&self, own: &Word) -> Option<Result<Vec<Word>>> {
        self.exchange.as_ref().map(|exchange| self.gathered(exchange, own))
    }

    /// Tells the others that a checkpoint is made now, for which they have to make theirs
    /// ([`heed`](Self::heed)).
    ///
    /// # Errors
    /// [`Error::Rank`] where a rank is gone.
    pub fn ask_for_checkpoint(&self) -> Result<()> {
        self.words(&Word::Checkpoint).map_or(Ok(()), |all| all.map(drop))
    }

    /// [`take_together`](Self::take_together) for one of the others, which before that makes as many
    /// checkpoints as rank 0 asks for.
    ///
    /// # Errors
    /// As [`take_together`](Self::take_together).
    pub async fn heed<T>(
        &self,
        own: Result<Option<T>>,
        mut make_checkpoint: impl AsyncFnMut(),
    ) -> Result<Option<T>> {
        loop {
            let Some(all) = self.words(&Word::of(&own)) else { return own };
            match all {
                Ok(words) if words[0] == Word::Checkpoint => make_checkpoint().await,
                all => return joined(own, all),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_go_on_or_none_does() {
        let all = |second: Word| Ok(vec![Word::Has(true), second]);
        let taken = joined(Ok(Some(1)), all(Word::Has(true)));
        assert_eq!(taken.expect("no failure"), Some(1));
        assert_eq!(joined(Ok(Some(1)), all(Word::Has(false))).expect("no failure"), None);
        let told = joined(Ok(Some(1)), all(Word::Failed("a reason".into())));
        assert_eq!(told.expect_err("told").to_string(), "rank 1 cannot go on: a reason");
        // What is wrong here is told as what it is, whatever the others say.
        let lost = Error::DeviceLost { reason: "a reset".into() };
        let own = joined::<()>(Err(lost), all(Word::Failed("a reason".into())));
        assert!(matches!(own, Err(Error::DeviceLost { .. })), "{own:?}");
    }
}
