//! A run in the terminal, while it goes on.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{IsTerminal, Stdout};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Chart, Dataset, GraphType, Paragraph};
use ratatui::{Frame, widgets};

use crate::error::{Error, Result};
use crate::watch::axis::{Axis, Spacing};
use crate::watch::series::Series;
use crate::watch::{Record, RunStatistics, Sink, number, scalar};

/// Buckets of a line: what a wide terminal shows.
const BUCKETS: usize = 512;
/// Events that are kept.
const EVENTS: usize = 50;
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
    /// [`Error::Unsupported`] if standard output is no terminal.
    pub fn new() -> Result<Self> {
        let refused = |reason: String| Error::Unsupported {
            what: format!("a dashboard here ({reason})"),
            instead: "run in a terminal, or leave the dashboard out".into(),
        };
        if !std::io::stdout().is_terminal() {
            return Err(refused("standard output is no terminal".into()));
        }
        // This also installs the panic hook.
        let terminal = ratatui::try_init().map_err(|error| {
            ratatui::restore();
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
            ratatui::restore();
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

/// What is shown, apart from where.
#[derive(Debug)]
struct View {
    title: String,
    steps: Option<(u64, u64)>,
    statistics: RunStatistics,
    plots: [Plot; 5],
    validation: Series,
    clipped_norm: Series,
    last_validation: Option<f64>,
    events: VecDeque<(u64, String)>,
}

/// One chart.
#[derive(Debug)]
struct Plot {
    name: &'static str,
    scalar: &'static str,
    spacing: Spacing,
    colour: Color,
    series: Series,
    last: Option<f64>,
}

impl View {
    fn new() -> Self {
        let plot = |name, scalar, spacing, colour| {
            let (series, last) = (Series::new(BUCKETS), None);
            Plot { name, scalar, spacing, colour, series, last }
        };
        Self {
            title: "evenkeel".into(),
            steps: None,
            statistics: RunStatistics::default(),
            plots: [
                plot("loss", scalar::LOSS, Spacing::Linear, Color::Blue),
                plot("gradient norm", scalar::GRADIENT_NORM, Spacing::Decimal, Color::Green),
                plot("loss scale", scalar::LOSS_SCALE, Spacing::Binary, Color::Magenta),
                plot("learning rate", scalar::LEARNING_RATE, Spacing::Linear, Color::Cyan),
                plot("tokens/s", scalar::TOKENS_PER_SECOND, Spacing::Linear, Color::LightGreen),
            ],
            validation: Series::new(BUCKETS),
            clipped_norm: Series::new(BUCKETS),
            last_validation: None,
            events: VecDeque::new(),
        }
    }

    fn record(&mut self, record: &Record) {
        let step = record.step;
        self.steps = Some(self.steps.map_or((step, step), |(first, _)| (first.min(step), step)));
        self.statistics.update(record);
        for plot in &mut self.plots {
            if let Some(value) = record.get(plot.scalar) {
                plot.series.push(step, value);
                plot.last = Some(value);
            }
        }
        if let Some(loss) = record.get(scalar::VALIDATION_LOSS) {
            self.validation.push(step, loss);
            self.last_validation = Some(loss);
        }
        if let Some(norm) = record.clipped_norm().filter(|_| record.clipped()) {
            self.clipped_norm.push(step, norm);
        }
        for event in &record.events {
            self.events.push_back((step, event.clone()));
        }
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [Constraint::Length(2), Constraint::Fill(1), Constraint::Max(8)];
        let [head, charts, events] = Layout::vertical(rows).areas(frame.area());
        frame.render_widget(Paragraph::new(self.head()), head);
        let rows = [Constraint::Fill(3), Constraint::Fill(2)];
        let [upper, lower] = Layout::vertical(rows).areas(charts);
        let [loss, norm] = Layout::horizontal([Constraint::Fill(1); 2]).areas(upper);
        let small: [Rect; 3] = Layout::horizontal([Constraint::Fill(1); 3]).areas(lower);
        let [first, second, rest @ ..] = &self.plots;
        self.plot(frame, loss, first, Some(("validation", &self.validation)));
        self.plot(frame, norm, second, Some(("clipped to", &self.clipped_norm)));
        for (plot, area) in rest.iter().zip(small) {
            self.plot(frame, area, plot, None);
        }
        self.show_events(frame, events);
    }

    fn head(&self) -> Vec<Line<'_>> {
        let statistics = &self.statistics;
        let count = |count: u64| number::grouped(count as f64);
        let step = self.steps.map_or("-".into(), |(_, step)| count(step));
        let skipped = format!("skipped {}", count(statistics.skipped()));
        let skipped =
            if statistics.skipped() > 0 { skipped.red().bold() } else { Span::from(skipped) };
        let share = number::percent(statistics.clip_share());
        let spikes = statistics.loss_spikes().spikes() + statistics.norm_spikes().spikes();
        let validation = self.last_validation.map(number::brief).unwrap_or("-".into());
        vec![
            Line::from_iter([self.title.as_str().bold(), "   q or Ctrl-C stops".dim()]),
            Line::from_iter([
                Span::from(format!("step {step}   ")),
                skipped,
                Span::from(format!(
                    "   clipped {} ({share} of the last)",
                    count(statistics.clipped())
                )),
                Span::from(format!("   spikes {spikes}   validation {validation}")),
            ]),
        ]
    }

    fn plot(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        plot: &Plot,
        second: Option<(&str, &Series)>,
    ) {
        let last = plot.last.map_or(String::new(), number::brief);
        let title = Line::from_iter([
            format!(" {} ", plot.name).fg(plot.colour),
            format!("{last} ").bold(),
        ]);
        let mut block = Block::bordered().border_style(Style::new().dim()).title(title);
        let second = second.filter(|(_, series)| !series.is_empty());
        if let Some((name, _)) = second {
            block = block.title(Line::from(format!(" {name} ").yellow()).right_aligned());
        }
        let all = [Some(&plot.series), second.map(|(_, series)| series)];
        let buckets = all.into_iter().flatten().flat_map(Series::buckets);
        let buckets = buckets.filter(|(_, bucket)| bucket.count > 0);
        let values = buckets.flat_map(|(_, bucket)| [bucket.min, bucket.max]);
        let crop = plot.scalar == scalar::LOSS;
        let (y, _) = Axis::around(values, plot.spacing, crop, (0.0, 1.0));
        let line = points(&plot.series, &y);
        let other = second.map_or(Vec::new(), |(_, series)| points(series, &y));

        let dataset = |points, colour| {
            Dataset::default()
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(colour))
                .data(points)
        };
        let datasets = vec![dataset(&line, plot.colour), dataset(&other, Color::Yellow)];
        let (first, last) = self.steps.unwrap_or((0, 1));
        let (first, last) = (first as f64, last.max(first + 1) as f64);
        let chart = Chart::new(datasets)
            .block(block)
            .x_axis(axis([first, last], [number::grouped(first), number::grouped(last)].into()))
            .y_axis(axis([0.0, 1.0], labels(&y)));
        frame.render_widget(chart, area);
    }

    fn show_events(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = area.height.saturating_sub(2) as usize;
        let lines = self.events.iter().rev().take(rows).map(|(step, event)| {
            let step = format!("{:>9}  ", number::grouped(*step as f64));
            Line::from_iter([step.dim(), Span::from(event.as_str())])
        });
        let lines: Vec<_> = lines.collect();
        let block = Block::bordered().border_style(Style::new().dim()).title(" events ");
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }
}

/// From the smallest to the largest value of every bucket, so that spikes are seen. The widget's
/// axes are linear: positions stand for values.
fn points(series: &Series, y: &Axis) -> Vec<(f64, f64)> {
    let buckets = series.buckets().filter(|(_, bucket)| bucket.count > 0);
    let ends = buckets.flat_map(|(step, bucket)| [(step, bucket.min), (step, bucket.max)]);
    let mut points: Vec<_> =
        ends.filter_map(|(step, value)| Some((step, y.inside(value)?))).collect();
    points.dedup();
    points
}

/// Values at equal distances, as the widget places labels.
fn labels(y: &Axis) -> Vec<String> {
    let value = |share: f64| match y.spacing {
        Spacing::Linear => y.low + share * (y.high - y.low),
        _ => (y.low.ln() + share * (y.high / y.low).ln()).exp(),
    };
    [0.0, 0.5, 1.0].map(|share| number::brief(value(share))).into()
}

fn axis<'a>(bounds: [f64; 2], labels: Vec<String>) -> widgets::Axis<'a> {
    widgets::Axis::default().bounds(bounds).labels(labels).style(Style::new().dim())
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
