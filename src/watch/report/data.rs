//! What a report keeps of a run, and which charts it makes of that.

use std::collections::VecDeque;

use super::chart::{Chart, Form, Line, Strip};
use super::heat::Heat;
use super::{GAP, Panel, Report, WIDTH};
use crate::watch::axis::Spacing;
use crate::watch::series::Series;
use crate::watch::{Record, RunStatistics, number, scalar};

/// Buckets of a line: more than a screen shows, at least half as many.
const BUCKETS: usize = 1600;
/// Events that are kept from the beginning of the run, and from its end.
const EVENTS: usize = 250;

#[derive(Clone, Debug)]
pub struct Data {
    pub statistics: RunStatistics,
    /// First and last step.
    steps: Option<(u64, u64)>,
    pub first_loss: Option<f64>,
    pub validation: Option<Validation>,
    pub loss: Series,
    validation_loss: Series,
    norm: Series,
    clipped_norm: Series,
    loss_scale: Series,
    learning_rate: Series,
    pub tokens_per_second: Series,
    /// 0 or 1.
    skipped: Series,
    /// 0 or 1.
    clipped: Series,
    tensors: Heat,
    pub events: Events,
}

#[derive(Clone, Copy, Debug)]
pub struct Validation {
    pub last: f64,
    pub best: f64,
    pub best_step: u64,
}

/// The first and the last events, and how many there were.
#[derive(Clone, Debug, Default)]
pub struct Events {
    pub first: Vec<(u64, String)>,
    pub last: VecDeque<(u64, String)>,
    pub count: u64,
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

    pub fn left_out(&self) -> u64 {
        self.count - (self.first.len() + self.last.len()) as u64
    }
}

impl Data {
    pub fn new() -> Self {
        let line = || Series::new(BUCKETS);
        Self {
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
        }
    }

    pub fn record(&mut self, record: &Record) {
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

    pub fn panels(&self, report: &Report) -> Vec<Panel> {
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
        let label = |threshold| format!("clipped above {}", number::brief(threshold));
        let levels = report.threshold.map(|threshold| (label(threshold), threshold));
        let strips = vec![
            Strip { class: "clipped", label: "clipped", series: &self.clipped },
            Strip { class: "skipped", label: "skipped", series: &self.skipped },
        ];
        let chart = self.chart("gradient norm", (WIDTH, 290.0), Spacing::Decimal);
        Chart { lines, levels: levels.into_iter().collect(), strips, ..chart }.panel()
    }
}
