//! Tables of docs/scaling.md.

use anyhow::{Context, Result};

use super::Constants;
use super::cases::{self, DELAYS, KINDS, Kind, MODELS, RANKS, RATES};
use super::measured::{Link, Measured};
use super::model::{Host, Job, Network, PIECE, at_once, in_turn, synchronous};

/// A table of Markdown.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<_> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = vec!["---".to_owned(); head.len()];
    let rows: String = rows.into_iter().map(|row| line(&row)).collect();
    let text = line(&head) + &line(&rule).replace(' ', "") + &rows;
    text.trim_end().to_owned()
}

/// Milliseconds, with three digits that count.
fn ms(seconds: f64) -> String {
    digits(1e3 * seconds)
}

fn digits(value: f64) -> String {
    let places = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 3.0) as usize;
    format!("{value:.places$}")
}

/// A network, in words.
pub fn named(link: Link) -> String {
    let rate = match link.rate_mbit {
        None => "no limit".to_owned(),
        Some(rate) if rate.is_multiple_of(1000) => format!("{} Gbit/s", rate / 1000),
        Some(rate) => format!("{rate} Mbit/s"),
    };
    match link.delay_us {
        0 => format!("no delay, {rate}"),
        delay => format!("{} ms, {rate}", delay as f64 / 1e3),
    }
}

pub fn constants(constants: &Constants) -> String {
    let Constants { host, overhead } = constants;
    let rows = [
        ("from the device to the host and back, 4 MiB", ms(PIECE * host.staging)),
        ("the same, GB/s", digits(1e-9 / host.staging)),
        ("adding up the range of 2 ranks, of 4 MiB each", ms(PIECE * host.fold)),
        ("the same, GB/s", digits(1e-9 / host.fold)),
        ("a small message between two hosts, beside the delay", ms(*overhead)),
    ];
    let rows = rows.map(|(what, value)| vec![what.to_owned(), value]);
    table(&["constant", "ms, or as said"], rows)
}

/// Parameters of the steps that are measured.
const STEPS: [(&str, f64); 2] = [("step", 2.0), ("long step", 4.0)];
/// Of a layer of them.
const LAYER: f64 = 1024.0 * 1025.0;

/// What was computed beside what was measured.
pub fn compared(measured: &Measured) -> Result<String> {
    let mut head = vec!["network", "ranks"];
    let whats =
        ["small message, ms", "4 MiB, ms", "16 MiB at once, ms", "step, ms", "long step, ms"];
    head.extend(whats.into_iter().flat_map(|what| [what, "measured", "error"]));
    let mut rows = Vec::new();
    for (link, ranks) in measured.runs().into_iter().filter(|&(_, ranks)| ranks > 1) {
        let network = measured.network(link, ranks)?;
        let host = measured.host(link, ranks)?;
        let count = f64::from(ranks);
        // Nothing of these is on a device.
        let off = Host { staging: 0.0, ..host };
        let mut row = vec![named(link), ranks.to_string()];
        let mut add = |computed: f64, what: &str| {
            let known = measured.get(link, ranks, what);
            let seen = known.with_context(|| format!("{what} was not measured with {ranks}"))?;
            let error = format!("{:+.0} %", 100.0 * (computed / seen - 1.0));
            row.extend([ms(computed), ms(seen), error]);
            anyhow::Ok(())
        };
        add(network.round(count, 0.0).seconds, "gather of 8 bytes")?;
        let one = in_turn(&network, &off, count, PIECE, PIECE).seconds;
        add(one, "exchange of 4096 KiB")?;
        let four = at_once(&network, &off, count, 4.0 * PIECE, PIECE).seconds;
        add(four, "exchange of 4 pieces at once")?;
        for (step, layers) in STEPS {
            let alone = format!("{step} by itself");
            let compute = measured.get(link, ranks, &alone);
            let compute = compute.with_context(|| format!("{alone} was not measured"))?;
            let job = Job { parameters: layers * LAYER, compute };
            let computed = synchronous(&job, &network, &host, count, PIECE).seconds();
            add(computed, &format!("{step} together"))?;
        }
        rows.push(row);
    }
    Ok(table(&head, rows))
}

/// Ranks that share the cores of a machine, without a limit between them.
pub fn shared_cores(measured: &Measured) -> Result<String> {
    let free = Link { delay_us: 0, rate_mbit: None };
    let head = [
        "ranks",
        "step by itself, all at once, ms",
        "step together, ms",
        "efficiency beside one rank that has all cores",
        "efficiency beside ranks that share them",
    ];
    let by_itself = |ranks| measured.get(free, ranks, "step by itself");
    let alone = by_itself(1).context("a rank alone was not measured")?;
    let mut rows = Vec::new();
    for (_, ranks) in measured.runs().into_iter().filter(|&(link, _)| link == free) {
        let Some((shared, together)) =
            by_itself(ranks).zip(measured.get(free, ranks, "step together"))
        else {
            continue;
        };
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        rows.push(vec![
            ranks.to_string(),
            ms(shared),
            ms(together),
            percent(alone / together),
            percent(shared / together),
        ]);
    }
    Ok(table(&head, rows))
}

/// What a rank sends in a step.
pub fn bytes() -> String {
    let host = Host { staging: 0.0, fold: 0.0 };
    let network = cases::network(0.0, 1e9, 0.0);
    let mut head = vec!["a rank sends in a step, MB"];
    head.extend(MODELS.map(|(name, _)| name));
    let rows = KINDS.iter().filter(|(_, kind)| *kind != Kind::InTurn).flat_map(|(name, kind)| {
        [2.0, 1024.0].map(|ranks| {
            let of = |(_, parameters): (&str, f64)| {
                let step = kind.step(&cases::job(parameters), &network, &host, ranks);
                digits(1e-6 * step.exchanged.bytes)
            };
            let mut row = vec![format!("{name}, {ranks} ranks")];
            row.extend(MODELS.map(of));
            row
        })
    });
    table(&head, rows)
}

/// Efficiency of 124 M parameters on every network.
pub fn networks(constants: &Constants) -> String {
    let all = DELAYS.into_iter().flat_map(|delay| RATES.map(|rate| (delay, rate)));
    let rows = all.flat_map(|((place, delay), (rate, bits))| {
        let network = cases::network(delay, bits, constants.overhead);
        let named = format!("{rate} Gbit/s, {place}");
        KINDS.map(|kind| efficiencies(&named, MODELS[1].1, &network, kind, constants))
    });
    by_ranks("network", rows)
}

/// Efficiency of every model on one network.
pub fn models(constants: &Constants) -> String {
    let ((_, delay), (_, bits)) = (DELAYS[1], RATES[1]);
    let network = cases::network(delay, bits, constants.overhead);
    let rows = MODELS.iter().flat_map(|(model, parameters)| {
        KINDS.map(|kind| efficiencies(model, *parameters, &network, kind, constants))
    });
    by_ranks("model", rows)
}

fn by_ranks(first: &str, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let counts = RANKS.map(|ranks| format!("{ranks} ranks"));
    let head: Vec<_> = [first, "kind"].into_iter().chain(counts.iter().map(|c| &**c)).collect();
    table(&head, rows)
}

/// A row: two names, and the efficiency for each number of ranks.
fn efficiencies(
    named: &str,
    parameters: f64,
    network: &Network,
    (name, kind): (&str, Kind),
    constants: &Constants,
) -> Vec<String> {
    let job = cases::job(parameters);
    let of = |ranks| kind.step(&job, network, &constants.host, ranks).efficiency();
    let numbers = RANKS.map(|ranks| format!("{:.3}", of(ranks)));
    [named.to_owned(), name.to_owned()].into_iter().chain(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (value, text) in [
            (0.0123, "0.012"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (123.4, "123"),
            (98765.0, "98765"),
        ] {
            assert_eq!(digits(value), text);
        }
    }

    #[test]
    fn tables_are_markdown() {
        let rows = [vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["a", "b"], rows), "| a | b |\n|---|---|\n| 1 | 2 |");
    }

    #[test]
    fn networks_have_names() {
        let of = |delay_us, rate_mbit| named(Link { delay_us, rate_mbit });
        assert_eq!(of(0, None), "no delay, no limit");
        assert_eq!(of(5000, Some(100)), "5 ms, 100 Mbit/s");
        assert_eq!(of(50, Some(1000)), "0.05 ms, 1 Gbit/s");
    }
}
