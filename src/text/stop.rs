//! Texts that end a generation.

/// Watches a text as it comes for others that end it. What may be the beginning of one is held back
/// until it is known, so that nothing of it is shown.
///
/// ```
/// use evenkeel::text::StopTexts;
///
/// let mut stops = StopTexts::new(["\n\n"]);
/// assert_eq!(stops.push("a keel\n"), "a keel");
/// assert_eq!(stops.push("is long"), "\nis long");
/// assert_eq!(stops.push(".\n\nIt"), ".");
/// assert!(stops.is_found());
/// assert_eq!(stops.push("more"), "");
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopTexts {
    stops: Vec<String>,
    /// What was not given yet.
    held: String,
    is_found: bool,
}

impl StopTexts {
    /// These texts; empty ones end nothing.
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> Self {
        let stops = stops.into_iter().map(Into::into).filter(|stop: &String| !stop.is_empty());
        Self { stops: stops.collect(), ..Self::default() }
    }

    /// Takes what comes next, and gives what comes in front of the first stop, as far as that is
    /// known; nothing once there was one.
    pub fn push(&mut self, text: &str) -> String {
        if self.is_found {
            return String::new();
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(&**stop)).min();
        let end = found.unwrap_or_else(|| self.held.len() - self.longest_beginning());
        self.is_found = found.is_some();
        let rest = self.held.split_off(end);
        let known = std::mem::replace(&mut self.held, rest);
        if self.is_found {
            self.held.clear();
        }
        known
    }

    /// What was held back, where the text ends without a stop.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether there was one.
    pub fn is_found(&self) -> bool {
        self.is_found
    }

    /// Bytes at the end of what is held that a stop begins with.
    fn longest_beginning(&self) -> usize {
        let of_one = |stop: &String| {
            let most = self.held.len().min(stop.len() - 1);
            (1..=most).rev().find(|&length| {
                stop.is_char_boundary(length) && self.held.ends_with(&stop[..length])
            })
        };
        self.stops.iter().filter_map(of_one).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given of a text that comes in these parts.
    fn given(stops: &[&str], parts: &[&str]) -> (String, bool) {
        let mut watched = StopTexts::new(stops.iter().copied());
        let mut text: String = parts.iter().map(|part| watched.push(part)).collect();
        text.push_str(&watched.finish());
        (text, watched.is_found())
    }

    #[test]
    fn a_text_ends_before_the_first_stop_however_it_is_cut() {
        let text = "one é two--é-two three";
        let stops = ["--é-", "three", ""];
        for cut in (0..=text.len()).filter(|&cut| text.is_char_boundary(cut)) {
            let (first, second) = text.split_at(cut);
            assert_eq!(given(&stops, &[first, second]), ("one é two".to_owned(), true), "{cut}");
        }
        let letters: Vec<_> = text.split_inclusive(|_| true).collect();
        assert_eq!(given(&stops, &letters), ("one é two".to_owned(), true));
    }

    #[test]
    fn the_beginning_of_a_stop_alone_is_text() {
        assert_eq!(given(&["aab"], &["a", "a", "a", "c", "aa"]), ("aaacaa".to_owned(), false));
        assert_eq!(given(&[], &["a", "b"]), ("ab".to_owned(), false));
        assert_eq!(given(&["ab", "b"], &["ca", "b"]), ("c".to_owned(), true));
    }
}
