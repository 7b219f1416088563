//! What the data of a run are known again by.

use serde::{Deserialize, Serialize};

/// What is kept of the tokens that a run learns, to know them again when it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Number of tokens.
    pub tokens: usize,
    /// FNV-1a of the tokens, 64 bits as a hexadecimal number.
    pub hash: String,
}

impl Fingerprint {
    /// Of tokens, whatever they stand for.
    pub fn of(tokens: &[u32]) -> Self {
        let mut hash = TokenHash::default();
        hash.add(tokens);
        hash.fingerprint()
    }
}

/// The [`Fingerprint`] of tokens that come some at a time.
#[derive(Clone, Debug)]
pub struct TokenHash {
    hash: u64,
    tokens: usize,
}

impl Default for TokenHash {
    /// Of no tokens yet.
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, tokens: 0 }
    }
}

impl TokenHash {
    /// And some more.
    pub fn add(&mut self, tokens: &[u32]) {
        for byte in tokens.iter().flat_map(|token| token.to_le_bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.tokens += tokens.len();
    }

    /// Of all of them.
    pub fn fingerprint(&self) -> Fingerprint {
        let Self { hash, tokens } = *self;
        Fingerprint { tokens, hash: format!("{hash:016x}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tokens_are_known() {
        let saved = Fingerprint::of(&[0, 1, 2, 0, 1]);
        assert_eq!(Fingerprint::of(&[0, 1, 2, 0, 1]), saved);
        for other in [&[0, 1, 2, 0, 0][..], &[0, 1, 2, 0], &[1, 0, 2, 0, 1]] {
            assert_ne!(Fingerprint::of(other), saved);
        }
        // FNV-1a of nothing, and of four bytes that are 0.
        assert_eq!(Fingerprint::of(&[]).hash, "cbf29ce484222325");
        assert_eq!(Fingerprint::of(&[0]).hash, "4d25767f9dce13f5");
        // What older saves say beside it is passed over.
        let older = r#"{"characters": null, "tokens": 0, "hash": "cbf29ce484222325"}"#;
        let older: Fingerprint = serde_json::from_str(older).expect("a fingerprint");
        assert_eq!(older, Fingerprint::of(&[]));
    }
}
