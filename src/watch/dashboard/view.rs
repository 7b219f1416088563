//! Charts, counters and events of the dashboard.

use std::collections::VecDeque;

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Chart, Dataset, GraphType, Paragraph};
use ratatui::{Frame, widgets};

use crate::watch::axis::{Axis, Spacing};
use crate::watch::series::Series;
use crate::watch::{Record, RunStatistics, number, scalar};

/// Buckets of a line: what a wide terminal shows.
const BUCKETS: usize = 512;
/// Events that are kept.
const EVENTS: usize = 50;

/// What is shown, apart from where.
#[derive(Debug)]
pub struct View {
    pub title: String,
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
    pub fn new() -> Self {
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

    pub fn record(&mut self, record: &Record) {
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

    pub fn draw(&self, frame: &mut Frame<'_>) {
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
