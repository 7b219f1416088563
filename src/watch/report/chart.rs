//! Lines over the steps, as SVG.

use std::fmt::Write;

use super::{Panel, escape};
use crate::watch::axis::{Axis, Spacing};
use crate::watch::number;
use crate::watch::series::Series;

const LEFT: f64 = 66.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 38.0;
/// Height of a strip of marks below the plot, distance to the next included.
const STRIP: f64 = 12.0;

/// How a series is drawn. Classes are those of style.css.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// Every value; where buckets hold several, from the smallest to the largest.
    Raw,
    /// The mean of medians over a fiftieth of the steps, which no spike moves, over a pale
    /// [`Raw`](Self::Raw).
    Smooth,
    /// A point for each value, joined by a line.
    Points,
}

pub struct Line<'a> {
    pub class: &'static str,
    pub label: String,
    pub series: &'a Series,
    pub form: Form,
}

/// Marks below the plot: buckets whose values, 0 or 1, are not all 0.
pub struct Strip<'a> {
    pub class: &'static str,
    pub label: &'static str,
    pub series: &'a Series,
}

pub struct Chart<'a> {
    pub title: &'static str,
    pub size: (f64, f64),
    /// First and last step.
    pub steps: (f64, f64),
    pub spacing: Spacing,
    /// Whether few values may lie outside, where a mark shows them.
    pub crop: bool,
    pub lines: Vec<Line<'a>>,
    /// Dashed lines across.
    pub levels: Vec<(String, f64)>,
    pub strips: Vec<Strip<'a>>,
}

impl Chart<'_> {
    pub fn panel(&self) -> Panel {
        let (width, height) = self.size;
        let strips = STRIP * self.strips.len() as f64;
        let vertical = (height - BOTTOM - strips, TOP);
        let (y, cropped) = Axis::around(self.values(), self.spacing, self.crop, vertical);
        let last = self.steps.1.max(self.steps.0 + 1.0);
        let (start, end) = (LEFT, width - RIGHT);
        let x = Axis { spacing: Spacing::Linear, low: self.steps.0, high: last, start, end };

        let mut body = String::new();
        self.frame(&mut body, &x, &y);
        for (_, level) in &self.levels {
            let Some(y) = y.at(*level) else { continue };
            let (start, end) = (x.start, x.end);
            put(&mut body, format_args!("<path class='level' d='M{start:.1} {y:.1}H{end:.1}'/>"));
        }
        for line in &self.lines {
            line.draw(&mut body, &x, &y);
        }
        if cropped {
            self.marks_above(&mut body, &x, &y);
        }
        for (row, strip) in self.strips.iter().enumerate() {
            strip.draw(&mut body, &x, y.start + 3.0 + STRIP * row as f64);
        }
        self.legend(&mut body);
        Panel { title: self.title.into(), width, height, body }
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        let buckets = self.lines.iter().flat_map(|line| line.series.buckets());
        let buckets = buckets.filter(|(_, bucket)| bucket.count > 0);
        let levels = self.levels.iter().map(|&(_, level)| level);
        buckets.flat_map(|(_, bucket)| [bucket.min, bucket.max]).chain(levels)
    }

    /// Grid, labels and title.
    fn frame(&self, body: &mut String, x: &Axis, y: &Axis) {
        let (left, right, bottom) = (x.start, x.end, y.start);
        put(body, format_args!("<text class='title' x='12' y='22'>{}</text>", escape(self.title)));
        let rows = if y.start - y.end > 120.0 { 5 } else { 3 };
        for (value, label) in y.ticks(rows) {
            let Some(at) = y.at(value).filter(|at| (y.end..=bottom).contains(at)) else { continue };
            put(body, format_args!("<path class='grid' d='M{left:.1} {at:.1}H{right:.1}'/>"));
            let (x, y) = (left - 8.0, at + 4.0);
            put(body, format_args!("<text class='end' x='{x:.1}' y='{y:.1}'>{label}</text>"));
        }
        put(body, format_args!("<path class='axis' d='M{left:.1} {bottom:.1}H{right:.1}'/>"));
        let labels = bottom + STRIP * self.strips.len() as f64 + 20.0;
        // A step is whole, and a label must not leave the picture.
        let columns = ((right - left) / 110.0) as usize;
        let whole = x.ticks(columns).into_iter().filter(|(step, _)| step.fract() == 0.0);
        for (step, _) in whole {
            let Some(at) = x.at(step) else { continue };
            let label = number::grouped(step);
            let class =
                if at + 4.0 * label.len() as f64 > right + RIGHT { "end" } else { "middle" };
            let text = format!("<text class='{class}' x='{at:.1}' y='{labels:.1}'>{label}</text>");
            body.push_str(&text);
        }
        put(
            body,
            format_args!("<text class='end' x='{:.1}' y='{labels:.1}'>step</text>", left - 8.0),
        );
    }

    /// One entry per line and level, from the right of the title's row.
    fn legend(&self, body: &mut String) {
        let lines = self.lines.iter().map(|line| (line.class, &line.label));
        let levels = self.levels.iter().map(|(label, _)| ("level", label));
        let entries: Vec<_> = lines.chain(levels).collect();
        if let [(_, label)] = entries[..]
            && label.is_empty()
        {
            return;
        }
        let mut right = self.size.0 - RIGHT;
        for (class, label) in entries.into_iter().rev() {
            let text = right - 6.3 * label.chars().count() as f64;
            let (from, to) = (text - 26.0, text - 6.0);
            put(body, format_args!("<path class='{class}' d='M{from:.1} 18H{to:.1}'/>"));
            put(body, format_args!("<text x='{text:.1}' y='22'>{}</text>", escape(label)));
            right = from - 16.0;
        }
    }

    /// A triangle at the top wherever a value lies above.
    fn marks_above(&self, body: &mut String, x: &Axis, y: &Axis) {
        for line in self.lines.iter().filter(|line| line.form != Form::Points) {
            for (step, bucket) in line.series.buckets() {
                let Some(x) = x.at(step).filter(|_| bucket.max > y.high) else { continue };
                let (top, label) = (y.end, number::brief(bucket.max));
                let triangle = format_args!(
                    "<path class='above' d='M{x:.1} {top:.1}l-4 7h8z'>\
                     <title>{label} near step {step:.0}</title></path>"
                );
                put(body, triangle);
            }
        }
    }
}

impl Line<'_> {
    fn draw(&self, body: &mut String, x: &Axis, y: &Axis) {
        let class = self.class;
        let mean = |bucket: &crate::watch::series::Bucket| bucket.mean();
        match self.form {
            Form::Points => {
                let points: Vec<_> = self.series.buckets().map(|(s, b)| (s, mean(b))).collect();
                let path = path(&points, x, y);
                put(body, format_args!("<path class='{class}' d='{path}'/>"));
                let mut dots = String::new();
                for (step, value) in points {
                    let at = value.and_then(|value| Some((x.at(step)?, y.inside(value)?)));
                    let Some((x, y)) = at else { continue };
                    put(&mut dots, format_args!("M{x:.1} {y:.1}h0"));
                }
                put(body, format_args!("<path class='{class} dots' d='{dots}'/>"));
            }
            Form::Raw => self.raw(body, class, x, y),
            Form::Smooth => {
                self.raw(body, &format!("{class} pale"), x, y);
                let path = path(&self.smooth(), x, y);
                put(body, format_args!("<path class='{class} bold' d='{path}'/>"));
            }
        }
    }

    fn raw(&self, body: &mut String, class: &str, x: &Axis, y: &Axis) {
        if self.series.width() == 1 {
            let points: Vec<_> = self.series.buckets().map(|(s, b)| (s, b.mean())).collect();
            let path = path(&points, x, y);
            put(body, format_args!("<path class='{class}' d='{path}'/>"));
            return;
        }
        // Every bucket from its smallest to its largest value, neighbours joined into one area.
        let mut area = String::new();
        let (mut upper, mut lower) = (String::new(), Vec::new());
        let mut close = |upper: &mut String, lower: &mut Vec<(f64, f64)>| {
            if !lower.is_empty() {
                put(&mut area, format_args!("M{}", &upper[1..]));
                for (x, y) in lower.drain(..).rev() {
                    put(&mut area, format_args!("L{x:.1} {y:.1}"));
                }
                area.push('Z');
                upper.clear();
            }
        };
        for (step, bucket) in self.series.buckets() {
            let positive = y.spacing != Spacing::Linear;
            let smallest = if positive { bucket.min.max(y.low) } else { bucket.min };
            let ends = y.inside(bucket.max).zip(y.inside(smallest));
            match (x.at(step), ends.filter(|_| bucket.count > 0)) {
                (Some(x), Some((top, bottom))) => {
                    put(&mut upper, format_args!("L{x:.1} {top:.1}"));
                    lower.push((x, bottom));
                }
                _ => close(&mut upper, &mut lower),
            }
        }
        close(&mut upper, &mut lower);
        put(body, format_args!("<path class='{class} area' d='{area}'/>"));
    }

    fn smooth(&self) -> Vec<(f64, Option<f64>)> {
        let finite = self.series.buckets().filter_map(|(step, b)| Some((step, b.mean()?)));
        let (steps, means): (Vec<f64>, Vec<f64>) = finite.unzip();
        let medians = moving(&means, |window| {
            let mut sorted = window.to_vec();
            sorted.sort_unstable_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        });
        let smooth = moving(&medians, |window| window.iter().sum::<f64>() / window.len() as f64);
        steps.into_iter().zip(smooth.into_iter().map(Some)).collect()
    }
}

/// A function of the fiftieth of the values around each value.
fn moving(values: &[f64], of: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let width = (values.len() / 50).max(1);
    let window = |at: usize| {
        let end = (at + width.div_ceil(2)).min(values.len());
        &values[at.saturating_sub(width / 2)..end]
    };
    (0..values.len()).map(|at| of(window(at))).collect()
}

impl Strip<'_> {
    fn draw(&self, body: &mut String, x: &Axis, top: f64) {
        let (label, middle) = (self.label, top + 7.5);
        let left = x.start - 8.0;
        put(
            body,
            format_args!("<text class='end small' x='{left}' y='{middle:.1}'>{label}</text>"),
        );
        let steps = x.high - x.low;
        let half = (x.end - x.start) / steps * self.series.width() as f64 / 2.0;
        let mut runs: Vec<(f64, f64, u8)> = Vec::new();
        for (step, bucket) in self.series.buckets() {
            let Some(at) = x.at(step).filter(|_| bucket.max > 0.0) else { continue };
            // Rare ones stay visible: at least a third of the ink.
            let share = bucket.mean().unwrap_or(0.0);
            let ink = 2 + (share * 4.0).round() as u8;
            let (from, to) = ((at - half).max(x.start), (at + half).min(x.end));
            match runs.last_mut() {
                Some((_, end, same)) if *same == ink && from - *end < 0.5 => *end = to,
                _ => runs.push((from, to, ink)),
            }
        }
        let class = self.class;
        for (from, to, ink) in runs {
            let width = (to - from).max(1.5);
            let opacity = f64::from(ink) / 6.0;
            let rectangle = format_args!(
                "<rect class='{class}' x='{from:.1}' y='{top:.1}' width='{width:.1}' height='8' \
                 opacity='{opacity:.2}'/>"
            );
            put(body, rectangle);
        }
    }
}

/// A line through the points, broken where there is no value.
fn path(points: &[(f64, Option<f64>)], x: &Axis, y: &Axis) -> String {
    let mut path = String::new();
    let mut command = 'M';
    for &(step, value) in points {
        match value.and_then(|value| Some((x.at(step)?, y.inside(value)?))) {
            Some((x, y)) => {
                put(&mut path, format_args!("{command}{x:.1} {y:.1}"));
                command = 'L';
            }
            None => command = 'M',
        }
    }
    path
}

pub fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes everything");
}
