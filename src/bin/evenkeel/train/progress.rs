//! Progress of what is done before the first step, where somebody looks.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on the error output, where that is a terminal.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn bytes(what: &'static str, quiet: bool) -> Self {
        Self::new(what, "{bytes}/{total_bytes}", quiet)
    }

    pub fn count(what: &'static str, quiet: bool) -> Self {
        Self::new(what, "{pos}/{len}", quiet)
    }

    fn new(what: &'static str, counter: &str, quiet: bool) -> Self {
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let template = format!("{{bar:24}} {counter}  {{msg}}  {{eta}} left");
        let style = ProgressStyle::with_template(&template).expect("a valid template");
        let bar = ProgressBar::with_draw_target(None, target).with_style(style);
        bar.set_message(what);
        Self(bar)
    }

    pub fn show(&self, done: u64, of: u64) {
        self.0.set_length(of);
        self.0.set_position(done);
    }

    pub fn finish(self) {
        self.0.finish_and_clear();
    }
}
