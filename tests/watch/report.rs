//! The page and the picture, as XML, and what must be found in them.

use evenkeel::watch::{Record, Report, RunStatistics, Sink};
use roxmltree::{Document, Node, ParsingOptions};

use super::noise;

/// A run of `steps` steps with spikes, skipped steps and per-tensor norms.
fn record(steps: u64, report: &mut Report) {
    let mut statistics = RunStatistics::default();
    let mut loss_scale = 65536.0_f64;
    for step in 0..steps {
        let progress = step as f64 / steps as f64;
        let skipped = step % 251 == 200;
        loss_scale = if skipped { loss_scale / 2.0 } else { loss_scale };
        let bump = if (600..606).contains(&step) { 2.5 } else { 0.0 };
        let norm = 0.35 + 2.0 * (-8.0 * progress).exp() + 0.8 * noise(step).powi(6) + 4.0 * bump;
        let loss = 1.4 + 3.0 * (-5.0 * progress).exp() + 0.25 * noise(step + 7) + bump;
        let mut record = Record::new(step)
            .with("loss", if skipped { f64::NAN } else { loss })
            .with("gradient_norm", if skipped { f64::INFINITY } else { norm })
            .with("clip_coefficient", if skipped { 0.0 } else { (1.0 / norm).min(1.0) })
            .with("loss_scale", loss_scale)
            .with("learning_rate", 1e-3 * (progress * 20.0).min(1.0) * (1.0 - 0.9 * progress))
            .with("applied", if skipped { 0.0 } else { 1.0 })
            .with("tokens_per_second", 61_000.0 + 2000.0 * noise(step + 3));
        if step % 100 == 99 || step + 1 == steps {
            record.set("validation_loss", 1.6 + 2.9 * (-5.0 * progress).exp());
        }
        let layers = ["attention.qkv", "attention.out", "mlp.up", "mlp.down"];
        for (index, layer) in
            (0..4).flat_map(|block| layers.map(|layer| (block, layer))).enumerate()
        {
            let (block, layer) = layer;
            let own =
                norm * 0.02 * (1 + index) as f64 * (0.7 + 0.6 * noise(step * 31 + index as u64));
            let bad = skipped && index == 5;
            let name = format!("blocks.{block}.{layer}.weight");
            record.add_tensor("gradient_norm", &name, if bad { f64::NAN } else { own });
        }
        if skipped {
            record.events.push("skipped: 12 gradient elements are NaN or Inf; scale halved".into());
        }
        report.record(&statistics.annotate(record)).expect("kept");
    }
}

fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap_or_else(|error| panic!("{error}"))
}

fn texts<'a>(document: &'a Document<'_>) -> Vec<&'a str> {
    document.descendants().filter_map(|node| node.text()).collect()
}

fn with_class<'a>(document: &'a Document<'_>, class: &str) -> Vec<Node<'a, 'a>> {
    let has = |node: &Node<'_, '_>| {
        node.attribute("class").is_some_and(|found| found.split(' ').any(|part| part == class))
    };
    document.descendants().filter(has).collect()
}

/// All numbers of a path, which must be finite.
fn check_numbers(document: &Document<'_>) {
    for node in document.descendants() {
        for attribute in node.attributes().filter(|a| ["d", "x", "y", "width"].contains(&a.name()))
        {
            let value = attribute.value();
            let bad = value.contains("NaN") || value.contains("inf");
            assert!(!bad && !value.is_empty(), "{}={value}", attribute.name());
        }
    }
}

fn example() -> Report {
    let report = Report::new("tiny GPT on <llvmpipe> & \"others\"")
        .threshold(1.0)
        .baseline("guessing at random", 96_f64.ln())
        .warmup(100)
        .fact("adapter", "llvmpipe (LLVM 19)")
        .fact("model", "111,488 parameters");
    let mut report = report;
    record(2000, &mut report);
    report
}

#[test]
fn the_page_is_one_well_formed_file() {
    let html = example().to_html();
    if let Some(path) = std::env::var_os("EVENKEEL_WRITE_REPORT") {
        std::fs::write(path, &html).expect("written");
    }
    let document = parse(&html);
    check_numbers(&document);
    assert!(html.len() < 700_000, "{} bytes", html.len());
    for outside in ["src=", "href=", "url(", "@import", "<script", "http:"] {
        let found = html.replace("http://www.w3.org/", "").contains(outside);
        assert!(!found, "{outside} needs something that is not in the file");
    }
    assert!(html.contains("prefers-color-scheme: dark"));
    let texts = texts(&document);
    for text in [
        "tiny GPT on <llvmpipe> & \"others\"",
        "llvmpipe (LLVM 19)",
        "training",
        "validation",
        "guessing at random",
        "before clipping",
        "after clipping",
        "clipped above 1",
        "loss scale",
        "learning rate",
        "tokens per second",
        "gradient norms of the tensors",
        "blocks.3.mlp.down.weight",
        "skipped: 12 gradient elements are NaN or Inf; scale halved",
        "Clip threshold",
        "spikes",
    ] {
        assert!(texts.contains(&text), "{text:?} is missing");
    }
    // 200, 451, 702, ...: eight skipped steps, each a mark in both charts and a row of the table.
    assert_eq!(with_class(&document, "skipped").len(), 2 * 8);
    let rows = document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/1999/xhtml", "td")));
    let events = rows.filter(|cell| cell.text().is_some_and(|text| text.starts_with("skipped: ")));
    assert_eq!(events.count(), 8);
    // One tensor was not finite in those steps; its cells share one path.
    let cells = with_class(&document, "nonfinite");
    assert_eq!(cells.len(), 1);
    let strips = cells[0].attribute("d").expect("a path").matches('M').count();
    assert_eq!(strips, 8);
}

#[test]
fn the_picture_stands_alone() {
    let svg = example().to_svg();
    let document = parse(&svg);
    check_numbers(&document);
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    let height: f64 = root.attribute("height").expect("a height").parse().expect("a number");
    let cards = with_class(&document, "card");
    assert_eq!(cards.len(), 6);
    for card in cards {
        let place = card.parent().and_then(|group| group.attribute("transform")).expect("a place");
        let place = place.trim_start_matches("translate(").trim_end_matches(')');
        let (x, y) = place.split_once(' ').expect("two numbers");
        let number = |text: &str| text.parse::<f64>().expect("a number");
        let size = |name| number(card.attribute(name).expect("a size"));
        assert!(number(x) + size("width") <= 1064.0 && number(y) + size("height") <= height);
    }
    let texts = texts(&document);
    assert!(texts.contains(&"skipped") && texts.contains(&"clipped"));
    assert!(svg.contains("prefers-color-scheme: dark"));
}

#[test]
fn one_spike_in_a_long_run_is_seen() {
    let mut report = Report::new("long");
    for step in 0..60_000_u64 {
        let norm = if step == 23_456 { 500.0 } else { 1.0 + noise(step) };
        let loss = if step == 40_001 { 1e9 } else { 2.0 + noise(step) };
        let record = Record::new(step).with("loss", loss).with("gradient_norm", norm);
        let record = record.with("applied", if step == 7_777 { 0.0 } else { 1.0 });
        report.record(&record).expect("kept");
    }
    let svg = report.to_svg();
    assert!(svg.len() < 200_000, "{} bytes", svg.len());
    let document = parse(&svg);
    check_numbers(&document);
    assert_eq!(with_class(&document, "skipped").len(), 2);
    // The loss lies above its chart, which says so; the other losses are not squeezed.
    let above = with_class(&document, "above");
    assert_eq!(above.len(), 1);
    let title = above[0].first_element_child().and_then(|title| title.text()).expect("a title");
    assert!(
        title.starts_with("1e9 near step 400") || title.starts_with("1e9 near step 399"),
        "{title}"
    );
    // The norm's area reaches its highest point at the spike's step.
    let area = with_class(&document, "third")
        .into_iter()
        .find(|node| node.attribute("d").is_some_and(|d| d.len() > 1000))
        .and_then(|node| node.attribute("d"))
        .expect("an area");
    let points = area.split(['M', 'L', 'Z']).filter_map(|point| point.split_once(' '));
    let points: Vec<(f64, f64)> =
        points.map(|(x, y)| (x.parse().expect("a number"), y.parse().expect("a number"))).collect();
    let top = points.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a }).expect("points");
    let expected = 66.0 + 23_456.0 / 59_999.0 * (1040.0 - 66.0 - 14.0);
    assert!((top.0 - expected).abs() < 2.0, "{top:?}, expected at {expected}");
    let others = points.iter().filter(|point| point.1 < top.1 + 100.0).count();
    assert_eq!(others, 1, "nothing else is near as high");
}

#[test]
fn little_and_strange_data_can_be_drawn() {
    let draw = |records: &[Record]| {
        let mut report = Report::new("\u{0}\u{1b}[1m <strange> 鍵").threshold(0.0);
        records.iter().for_each(|record| report.record(record).expect("kept"));
        let (html, svg) = (report.to_html(), report.to_svg());
        check_numbers_of_parts(&html);
        check_numbers_of_parts(&svg);
        html
    };
    draw(&[]);
    draw(&[Record::new(7)]);
    draw(&[Record::new(7).with("loss", f64::NAN).with("gradient_norm", f64::INFINITY)]);
    draw(&[Record::new(7).with("loss", 1.0).with("gradient_norm", 0.0)]);
    draw(&[Record::new(u64::MAX).with("loss", -1e308), Record::new(0).with("loss", 1e308)]);
    let scale = |step, scale| Record::new(step).with("loss_scale", scale);
    draw(&[scale(0, 0.0), scale(1, 2_f64.powi(-140)), scale(2, 1e38)]);
    let mut tensors = Record::new(0);
    (0..300).for_each(|at| tensors.add_tensor("gradient_norm", &format!("t{at}"), f64::from(at)));
    let html = draw(&[tensors]);
    assert!(html.contains("(without 100 smaller ones)") && html.contains(">t299:"), "300 tensors");
    let mut many = Record::new(1);
    many.events = (0..2000).map(|at| format!("event <{at}>")).collect();
    let html = draw(&[many]);
    for text in ["event &lt;0&gt;", "event &lt;1999&gt;", "1,500 more"] {
        assert!(html.contains(text), "{text} is missing");
    }
    assert!(!html.contains("event &lt;1000&gt;"));
}

/// Empty paths are allowed here: there is little to draw.
fn check_numbers_of_parts(text: &str) {
    let document = parse(text);
    for node in document.descendants() {
        for attribute in node.attributes().filter(|a| ["d", "x", "y", "width"].contains(&a.name()))
        {
            let value = attribute.value();
            assert!(
                !value.contains("NaN") && !value.contains("inf"),
                "{}={value}",
                attribute.name()
            );
        }
    }
}

#[test]
fn files_are_written_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name| folder.path().join(name);
    let report = Report::new("files").save_html(path("r.html")).save_svg(path("r.svg"));
    let mut sinks = vec![report];
    sinks.record(&Record::new(0).with("loss", 1.0)).expect("kept");
    assert!(!path("r.html").exists());
    sinks.finish().expect("written");
    let read = |name| std::fs::read_to_string(path(name)).expect("a file");
    assert!(read("r.html").starts_with("<!DOCTYPE html>"));
    assert!(read("r.svg").starts_with("<svg"));

    let mut report = Report::new("nowhere").save_html(path("missing/r.html"));
    let error = report.finish().unwrap_err().to_string();
    assert!(error.contains("missing") && error.contains("cannot be written"), "{error}");
}
