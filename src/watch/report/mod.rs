//! A run as a picture and a page.
//!
//! SVG is written by hand: lines, areas and text are all it takes, the pages stay small, and the
//! library needs no plotting crate. [`data`] is what is kept, [`chart`] has lines over the steps,
//! [`heat`] the strip of tensors, [`page`] the HTML around them.

mod chart;
mod data;
mod heat;
mod page;

use std::path::PathBuf;

use crate::error::Result;
use crate::watch::{Record, Sink, ThresholdAdviser};
use data::Data;

const WIDTH: f64 = 1040.0;
const GAP: f64 = 12.0;

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
        Self {
            title: title.into(),
            facts: Vec::new(),
            threshold: None,
            baseline: None,
            html: None,
            svg: None,
            adviser: ThresholdAdviser::new(0),
            data: Data::new(),
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
            Some(path) => crate::file::replace(path, draw().as_bytes()),
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
