//! A run as a picture and a page.
//!
//! SVG is written by hand: lines, areas and text are all it takes, the pages stay small, and the
//! library needs no plotting crate. [`chart`] has lines over the steps, [`heat`] the strip of tensors,
//! [`page`] the HTML around them.

mod chart;
mod heat;
mod page;

use std::collections::VecDeque;
use std::path::PathBuf;

use crate::error::Result;
use crate::watch::axis::Spacing;
use crate::watch::series::Series;
use crate::watch::{Record, RunStatistics, Sink, ThresholdAdviser, scalar};
use chart::{Chart, Form, Line, Strip};
use heat::Heat;

const WIDTH: f64 = 1040.0;
const GAP: f64 = 12.0;
/// Buckets of a line: more than a screen shows, at least half as many.
const BUCKETS: usize = 1600;
/// Events that are kept from the beginning of the run, and from its end.
const EVENTS: usize = 250;

/// Collects records and draws them: losses, gradient norms, loss scale, learning rate, skipped and
/// clipped steps, norms of tensors, events.
///
/// [`to_html`](Self::to_html) gives one page that needs nothing else, no script and no other host;
/// [`to_svg`](Self::to_svg) the charts alone. Both follow the reader's choice of a light or dark
/// scheme. Memory is bounded: a long run is kept as the smallest, largest and mean values of
/// neighbouring steps, so that a spike of one step among a million is still seen. Only gradient
/// norms are kept one by one, for the [`ThresholdAdviser`].
///
/// ```
/// use evenkeel::watch::{Record, Report, Sink};
///
/// # fn main() -> evenkeel::Result<()> {
/// let mut report = Report::new("a run").threshold(1.0).fact("adapter", "llvmpipe");
/// for step in 0..100 {
///     let loss = 4.0 / (1.0 + step as f64 / 30.0);
///     report.record(&Record::new(step).with("loss", loss).with("gradient_norm", 0.3 * loss))?;
/// }
/// assert!(report.to_html().contains("<h1>a run</h1>"));
/// assert!(report.to_svg().starts_with("<svg"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Report {
    title: String,
    facts: Vec<(String, String)>,
    threshold: Option<f64>,
    baseline: Option<(String, f64)>,
    html: Option<PathBuf>,
    svg: Option<PathBuf>,
    adviser: ThresholdAdviser,
    data: Data,
}

#[derive(Clone, Debug)]
struct Data {
    statistics: RunStatistics,
    /// First and last step.
    steps: Option<(u64, u64)>,
    first_loss: Option<f64>,
    validation: Option<Validation>,
    loss: Series,
    validation_loss: Series,
    norm: Series,
    clipped_norm: Series,
    loss_scale: Series,
    learning_rate: Series,
    tokens_per_second: Series,
    /// 0 or 1.
    skipped: Series,
    /// 0 or 1.
    clipped: Series,
    tensors: Heat,
    events: Events,
}

#[derive(Clone, Copy, Debug)]
struct Validation {
    last: f64,
    best: f64,
    best_step: u64,
}

/// The first and the last events, and how many there were.
#[derive(Clone, Debug, Default)]
struct Events {
    first: Vec<(u64, String)>,
    last: VecDeque<(u64, String)>,
    count: u64,
}

impl Events {
    fn push(&mut self, step: u64, event: &str) {
        self.count += 1;
        if self.first.len() < EVENTS {
            self.first.push((step, event.to_owned()));
            return;
        }
        if self.last.len() == EVENTS {
            self.last.pop_front();
        }
        self.last.push_back((step, event.to_owned()));
    }

    fn left_out(&self) -> u64 {
        self.count - (self.first.len() + self.last.len()) as u64
    }
}

/// A drawing at the origin.
struct Panel {
    title: String,
    width: f64,
    height: f64,
    body: String,
}

impl Report {
    /// A report with nothing in it yet.
    pub fn new(title: impl Into<String>) -> Self {
        let line = || Series::new(BUCKETS);
        let data = Data {
            statistics: RunStatistics::default(),
            steps: None,
            first_loss: None,
            validation: None,
            loss: line(),
            validation_loss: line(),
            norm: line(),
            clipped_norm: line(),
            loss_scale: line(),
            learning_rate: line(),
            tokens_per_second: line(),
            skipped: line(),
            clipped: line(),
            tensors: Heat::default(),
            events: Events::default(),
        };
        Self {
            title: title.into(),
            facts: Vec::new(),
            threshold: None,
            baseline: None,
            html: None,
            svg: None,
            adviser: ThresholdAdviser::new(0),
            data,
        }
    }

    /// Draws the clip threshold into the chart of norms.
    #[must_use]
    pub fn threshold(self, threshold: f64) -> Self {
        Self { threshold: Some(threshold), ..self }
    }

    /// Draws a level into the chart of losses, such as that of guessing at random.
    #[must_use]
    pub fn baseline(self, label: impl Into<String>, loss: f64) -> Self {
        Self { baseline: Some((label.into(), loss)), ..self }
    }

    /// Adds a line to the page's head: an adapter, the size of a model, a setting.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.push((name.into(), value.into()));
        self
    }

    /// Leaves these first steps out of the table of thresholds.
    #[must_use]
    pub fn warmup(self, steps: u64) -> Self {
        Self { adviser: ThresholdAdviser::new(steps), ..self }
    }

    /// [`finish`](Sink::finish) writes the page to this file.
    #[must_use]
    pub fn save_html(self, path: impl Into<PathBuf>) -> Self {
        Self { html: Some(path.into()), ..self }
    }

    /// [`finish`](Sink::finish) writes the charts to this file.
    #[must_use]
    pub fn save_svg(self, path: impl Into<PathBuf>) -> Self {
        Self { svg: Some(path.into()), ..self }
    }

    /// The charts as one picture.
    pub fn to_svg(&self) -> String {
        let mut placed = String::new();
        let (mut x, mut y, mut row) = (0.0, 40.0, 0.0);
        for panel in self.data.panels(self) {
            if x + panel.width > WIDTH {
                (x, y, row) = (0.0, y + row + GAP, 0.0);
            }
            let Panel { width, height, body, .. } = &panel;
            placed.push_str(&format!(
                "<g transform='translate({:.1} {y:.1})'><rect class='card' width='{width:.1}' \
                 height='{height:.1}' rx='8'/>{body}</g>",
                x + GAP
            ));
            x += width + GAP;
            row = f64::max(row, *height);
        }
        let (width, height) = (WIDTH + 2.0 * GAP, y + row + GAP);
        let (title, style) = (escape(&self.title), include_str!("style.css"));
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' \
             viewBox='0 0 {width} {height}' role='img'><title>{title}</title>\
             <style>\n{style}</style><rect class='sheet' width='{width}' height='{height}'/>\
             <text class='title' x='{GAP}' y='26'>{title}</text>{placed}</svg>\n"
        )
    }

    /// Everything as one page.
    pub fn to_html(&self) -> String {
        page::page(self)
    }
}

impl Sink for Report {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.adviser.update(record);
        self.data.record(record);
        Ok(())
    }

    /// Writes the files that were asked for; there may be more records after it.
    #[cfg(not(target_arch = "wasm32"))]
    fn finish(&mut self) -> Result<()> {
        let write = |path: &Option<PathBuf>, draw: &dyn Fn() -> String| match path {
            Some(path) => std::fs::write(path, draw())
                .map_err(|error| super::sink::write_failed(path, &error)),
            None => Ok(()),
        };
        let html = write(&self.html, &|| self.to_html());
        html.and(write(&self.svg, &|| self.to_svg()))
    }

    /// There are no files here.
    #[cfg(target_arch = "wasm32")]
    fn finish(&mut self) -> Result<()> {
        match self.html.as_ref().or(self.svg.as_ref()) {
            None => Ok(()),
            Some(path) => Err(crate::Error::File {
                path: path.clone(),
                reason: "a browser has no files; take Report::to_html".into(),
            }),
        }
    }
}

impl Data {
    fn record(&mut self, record: &Record) {
        let step = record.step;
        self.statistics.update(record);
        self.steps = Some(self.steps.map_or((step, step), |(first, _)| (first.min(step), step)));
        let lines = [
            (&mut self.loss, record.get(scalar::LOSS)),
            (&mut self.validation_loss, record.get(scalar::VALIDATION_LOSS)),
            (&mut self.norm, record.get(scalar::GRADIENT_NORM)),
            (&mut self.clipped_norm, record.clipped_norm()),
            (&mut self.loss_scale, record.get(scalar::LOSS_SCALE)),
            (&mut self.learning_rate, record.get(scalar::LEARNING_RATE)),
            (&mut self.tokens_per_second, record.get(scalar::TOKENS_PER_SECOND)),
            (&mut self.skipped, Some(u8::from(!record.applied()).into())),
            (&mut self.clipped, Some(u8::from(record.clipped()).into())),
        ];
        for (series, value) in lines {
            if let Some(value) = value {
                series.push(step, value);
            }
        }
        for (tensor, norm) in record.tensors(scalar::GRADIENT_NORM) {
            self.tensors.push(tensor, step, norm);
        }
        self.first_loss = self.first_loss.or(record.get(scalar::LOSS));
        if let Some(last) = record.get(scalar::VALIDATION_LOSS) {
            let new = Validation { last, best: last, best_step: step };
            let old = self.validation.filter(|old| old.best <= last || last.is_nan());
            self.validation = Some(old.map_or(new, |old| Validation { last, ..old }));
        }
        for event in &record.events {
            self.events.push(step, event);
        }
    }

    fn range(&self) -> (f64, f64) {
        let (first, last) = self.steps.unwrap_or((0, 1));
        (first as f64, last as f64)
    }

    fn panels(&self, report: &Report) -> Vec<Panel> {
        let mut panels = vec![self.losses(report), self.norms(report)];
        let small = [
            ("loss scale", &self.loss_scale, Spacing::Binary, "fourth"),
            ("learning rate", &self.learning_rate, Spacing::Linear, "first"),
            ("tokens per second", &self.tokens_per_second, Spacing::Linear, "third"),
        ];
        let small: Vec<_> =
            small.into_iter().filter(|(_, series, ..)| !series.is_empty()).collect();
        let width = (WIDTH - GAP * (small.len().max(1) - 1) as f64) / small.len().max(1) as f64;
        for (title, series, spacing, class) in small {
            let line = Line { class, label: String::new(), series, form: Form::Raw };
            panels.push(
                Chart { lines: vec![line], ..self.chart(title, (width, 190.0), spacing) }.panel(),
            );
        }
        panels.extend(self.tensors.panel("gradient norms of the tensors", WIDTH, self.range()));
        panels
    }

    fn chart(&self, title: &'static str, size: (f64, f64), spacing: Spacing) -> Chart<'_> {
        let (lines, levels, strips) = (Vec::new(), Vec::new(), Vec::new());
        Chart { title, size, steps: self.range(), spacing, crop: false, lines, levels, strips }
    }

    fn losses(&self, report: &Report) -> Panel {
        let mut lines = vec![Line {
            class: "first",
            label: "training".into(),
            series: &self.loss,
            form: Form::Smooth,
        }];
        if !self.validation_loss.is_empty() {
            let (series, form) = (&self.validation_loss, Form::Points);
            lines.push(Line { class: "second", label: "validation".into(), series, form });
        }
        let levels = report.baseline.clone().into_iter().collect();
        let strips = vec![Strip { class: "skipped", label: "skipped", series: &self.skipped }];
        let chart = self.chart("loss", (WIDTH, 320.0), Spacing::Linear);
        Chart { crop: true, lines, levels, strips, ..chart }.panel()
    }

    fn norms(&self, report: &Report) -> Panel {
        let line = |class, label: &str, series| Line {
            class,
            label: label.into(),
            series,
            form: Form::Raw,
        };
        // Where nothing was clipped both are the same; the later line lies on top.
        let after = line("fourth", "after clipping", &self.clipped_norm);
        let mut lines = vec![line("third", "before clipping", &self.norm)];
        if self.statistics.clipped() > 0 {
            lines.insert(0, after);
        }
        let label = |threshold| format!("clipped above {}", super::number::brief(threshold));
        let levels = report.threshold.map(|threshold| (label(threshold), threshold));
        let strips = vec![
            Strip { class: "clipped", label: "clipped", series: &self.clipped },
            Strip { class: "skipped", label: "skipped", series: &self.skipped },
        ];
        let chart = self.chart("gradient norm", (WIDTH, 290.0), Spacing::Decimal);
        Chart { lines, levels: levels.into_iter().collect(), strips, ..chart }.panel()
    }
}

/// Text inside of XML, in quotation marks or not.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(' '),
            // XML cannot hold these, escaped or not.
            '\0'..' ' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}
