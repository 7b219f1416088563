//! The HTML page, which is XML as well.

use super::chart::put;
use super::data::Data;
use super::{Panel, Report, WIDTH, escape};
use crate::watch::number;

pub fn page(report: &Report) -> String {
    let title = escape(&report.title);
    let (page, style) = (include_str!("page.css"), include_str!("style.css"));
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\
         <meta charset=\"utf-8\"/><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <style>\n{page}{style}</style></head>\n<body><main><h1>{title}</h1>\n"
    );
    facts(&mut html, &report.facts);
    tiles(&mut html, &report.data);
    html.push_str("<div class=\"charts\">\n");
    report.data.panels(report).iter().for_each(|panel| figure(&mut html, panel));
    html.push_str("</div>\n");
    thresholds(&mut html, report);
    events(&mut html, &report.data);
    html.push_str("</main></body>\n</html>\n");
    html
}

fn facts(html: &mut String, facts: &[(String, String)]) {
    if facts.is_empty() {
        return;
    }
    html.push_str("<dl class=\"facts\">");
    for (name, value) in facts {
        let (name, value) = (escape(name), escape(value));
        put(html, format_args!("<div><dt>{name}</dt> <dd>{value}</dd></div>"));
    }
    html.push_str("</dl>\n");
}

/// A number, what it is, and what belongs to it.
struct Tile {
    name: &'static str,
    value: String,
    detail: String,
    bad: bool,
}

fn tiles(html: &mut String, data: &Data) {
    let statistics = &data.statistics;
    let steps = statistics.steps();
    let tile = |name, value, detail| Tile { name, value, detail, bad: false };
    let count = |count: u64| number::grouped(count as f64);
    let mut tiles = Vec::new();
    // One batch is noisy.
    let tail = (steps / 50).max(1);
    if let (Some(first), Some(loss)) = (data.first_loss, data.loss.recent_mean(tail)) {
        let detail = format!("from {}", number::brief(first));
        tiles.push(tile("loss", number::brief(loss), detail));
    }
    if let Some(validation) = data.validation {
        let detail =
            format!("best {} at step {}", number::brief(validation.best), validation.best_step);
        tiles.push(tile("validation loss", number::brief(validation.last), detail));
    }
    tiles.push(tile("steps", count(steps), format!("{} applied", count(statistics.applied()))));
    let share = number::percent(statistics.skipped() as f64 / steps.max(1) as f64);
    let skipped = tile("skipped", count(statistics.skipped()), format!("{share} of the steps"));
    tiles.push(Tile { bad: statistics.skipped() > 0, ..skipped });
    let share = number::percent(statistics.clip_share_of_run());
    tiles.push(tile("clipped", share, format!("{} steps", count(statistics.clipped()))));
    let (loss, norm) = (statistics.loss_spikes(), statistics.norm_spikes());
    let detail = format!("of the loss; {} of the norm", count(norm.spikes()));
    tiles.push(tile("spikes", count(loss.spikes()), detail));
    if let Some(speed) = data.tokens_per_second.recent_mean(u64::MAX) {
        tiles.push(tile("tokens/s", number::brief(speed), "mean over the run".into()));
    }
    html.push_str("<div class=\"tiles\">");
    for Tile { name, value, detail, bad } in tiles {
        let class = if bad { "tile bad" } else { "tile" };
        put(
            html,
            format_args!(
                "<div class=\"{class}\"><p>{name}</p><p class=\"value\">{value}</p>\
                 <p>{detail}</p></div>"
            ),
        );
    }
    html.push_str("</div>\n");
}

fn figure(html: &mut String, panel: &Panel) {
    let Panel { title, width, height, body } = panel;
    // The grid has six columns.
    let span = (6.0 * width / WIDTH).round();
    let class = if span > 3.0 { " class=\"wide\"" } else { "" };
    let title = escape(title);
    put(
        html,
        format_args!(
            "<figure{class} style=\"grid-column: span {span}\"><svg xmlns=\"http://www.w3.org/2000/svg\" \
         viewBox=\"0 0 {width:.1} {height:.1}\" role=\"img\" aria-label=\"{title}\">{body}</svg>\
         </figure>\n"
        ),
    );
}

fn thresholds(html: &mut String, report: &Report) {
    let Some(advice) = report.adviser.advise() else { return };
    let suggestion = advice.suggestion;
    let norms = number::grouped(advice.norms as f64);
    let warmup = if advice.warmup > 0 {
        format!("; {} steps of warm-up left out", number::grouped(advice.warmup as f64))
    } else {
        String::new()
    };
    put(
        html,
        format_args!(
            "<section><h2>Clip threshold</h2><p>From the norms of {norms} applied steps{warmup}. A \
         threshold of {} would have clipped {} of them. The largest norm was {}.</p><table>\
         <tr><th class=\"number\">percentile</th><th class=\"number\">threshold</th>\
         <th class=\"number\">steps clipped</th></tr>",
            number::brief(suggestion.threshold.into()),
            number::percent(suggestion.clipped),
            number::brief(advice.largest.into())
        ),
    );
    for candidate in advice.candidates {
        let class = if candidate == suggestion { " class=\"chosen\"" } else { "" };
        put(
            html,
            format_args!(
                "<tr{class}><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td></tr>",
                candidate.percentile,
                number::brief(candidate.threshold.into()),
                number::percent(candidate.clipped)
            ),
        );
    }
    html.push_str("</table></section>\n");
}

fn events(html: &mut String, data: &Data) {
    let events = &data.events;
    html.push_str("<section><h2>Events</h2>");
    if events.count == 0 {
        html.push_str("<p>None.</p></section>\n");
        return;
    }
    html.push_str("<table class=\"events\"><tr><th>step</th><th>event</th></tr>");
    let mut row = |step: &str, event: &str| {
        let event = escape(event);
        put(html, format_args!("<tr><td>{step}</td><td>{event}</td></tr>"));
    };
    events.first.iter().for_each(|(step, event)| row(&step.to_string(), event));
    if events.left_out() > 0 {
        row("…", &format!("{} more", number::grouped(events.left_out() as f64)));
    }
    events.last.iter().for_each(|(step, event)| row(&step.to_string(), event));
    html.push_str("</table></section>\n");
}
