//! A run in the terminal, while it goes on. [`view`] has what is shown.

mod view;

use std::fmt::Display;
use std::io::{IsTerminal, Stdout};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::error::{Error, Result};
use crate::watch::{Record, Sink};
use view::View;

/// Time between two pictures.
const INTERVAL: Duration = Duration::from_millis(50);

/// Shows charts of loss, gradient norm, loss scale, learning rate and speed, counts of skipped and
/// clipped steps, and the last events. Needs the feature `dashboard`.
///
/// It takes the whole terminal and gives it back when it is dropped, and when the program panics.
/// In between, the terminal sends no signal for Ctrl-C: [`update`](Self::update) and
/// [`poll`](Self::poll) see the keys and tell the caller to stop when it is pressed, or `q`.
///
/// ```no_run
/// use evenkeel::watch::{Dashboard, Record};
///
/// # fn main() -> evenkeel::Result<()> {
/// let mut dashboard = Dashboard::new()?.title("a run");
/// for step in 0.. {
///     let record = Record::new(step).with("loss", 1.0 / (1.0 + step as f64));
///     if dashboard.update(&record)?.is_break() {
///         break;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Dashboard<B: Backend = CrosstermBackend<Stdout>> {
    terminal: Terminal<B>,
    /// Whether the terminal must be given back, and has keys.
    is_real: bool,
    drawn: Option<Instant>,
    quit: bool,
    view: View,
}

impl Dashboard {
    /// Takes the terminal.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if standard output is no terminal, or one that can only print lines.
    pub fn new() -> Result<Self> {
        let refused = |reason: String| Error::Unsupported {
            what: format!("a dashboard here ({reason})"),
            instead: "run in a terminal, or leave the dashboard out".into(),
        };
        if !std::io::stdout().is_terminal() {
            return Err(refused("standard output is no terminal".into()));
        }
        if std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
            return Err(refused("TERM is dumb: this terminal cannot move its cursor".into()));
        }
        // This also installs the panic hook.
        let terminal = ratatui::try_init().map_err(|error| {
            drop(ratatui::try_restore());
            refused(error.to_string())
        })?;
        let mut dashboard = Self::with_backend(terminal);
        dashboard.is_real = true;
        Ok(dashboard)
    }
}

impl<B: Backend<Error: Display>> Dashboard<B> {
    /// Draws to a terminal that the caller has set up and will restore, at every record. Keys are
    /// the caller's as well.
    pub fn with_backend(terminal: Terminal<B>) -> Self {
        Self { terminal, is_real: false, drawn: None, quit: false, view: View::new() }
    }

    /// What stands at the top.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.view.title = title.into();
        self
    }

    /// Takes a record, draws if the last picture is old enough, and looks for keys.
    ///
    /// # Errors
    /// If the terminal fails.
    pub fn update(&mut self, record: &Record) -> Result<ControlFlow<()>> {
        self.view.record(record);
        let recent = self.drawn.is_some_and(|drawn| drawn.elapsed() < INTERVAL);
        if !self.is_real || !recent {
            self.draw()?;
        }
        self.poll()
    }

    /// Looks for keys, and draws anew where the window has changed. Where steps are slow or
    /// records come in batches this is called in between.
    ///
    /// # Errors
    /// If the terminal fails.
    pub fn poll(&mut self) -> Result<ControlFlow<()>> {
        let mut resized = false;
        while self.is_real && event::poll(Duration::ZERO).map_err(failed)? {
            let event = event::read().map_err(failed)?;
            self.quit |= asks_to_quit(&event);
            resized |= matches!(event, Event::Resize(..));
        }
        if resized {
            self.draw()?;
        }
        Ok(if self.quit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Draws now.
    ///
    /// # Errors
    /// If the terminal fails.
    pub fn draw(&mut self) -> Result<()> {
        self.drawn = Some(Instant::now());
        self.terminal.draw(|frame| self.view.draw(frame)).map_err(failed)?;
        Ok(())
    }

    /// Whether a key asked to stop. As a [`Sink`] a dashboard cannot say so by itself.
    pub const fn should_quit(&self) -> bool {
        self.quit
    }

    /// The terminal, to look at what was drawn.
    pub const fn terminal(&self) -> &Terminal<B> {
        &self.terminal
    }
}

impl<B: Backend<Error: Display>> Sink for Dashboard<B> {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.update(record).map(drop)
    }

    fn finish(&mut self) -> Result<()> {
        self.draw()
    }
}

impl<B: Backend> Drop for Dashboard<B> {
    fn drop(&mut self) {
        // In a panic the hook has done so, and has printed where it happened: leaving the other
        // screen once more would move the cursor back above that.
        if self.is_real && !std::thread::panicking() {
            // A terminal that is gone needs nothing back.
            drop(ratatui::try_restore());
        }
    }
}

fn failed(error: impl Display) -> Error {
    Error::Data { what: "the terminal".into(), reason: error.to_string() }
}

fn asks_to_quit(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let quits = match key.code {
        KeyCode::Char('c' | 'C') => control,
        KeyCode::Char('q' | 'Q') => !control,
        _ => false,
    };
    quits && key.kind != KeyEventKind::Release
}

#[cfg(test)]
mod checks {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn q_and_control_c_quit() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        let (none, control) = (KeyModifiers::NONE, KeyModifiers::CONTROL);
        assert!(asks_to_quit(&key(KeyCode::Char('q'), none)));
        assert!(asks_to_quit(&key(KeyCode::Char('c'), control)));
        assert!(!asks_to_quit(&key(KeyCode::Char('c'), none)));
        assert!(!asks_to_quit(&key(KeyCode::Enter, none)));
        assert!(!asks_to_quit(&Event::Resize(80, 24)));
    }
}
