//! What was measured: lines of the bench `exchange` over several networks, in a file.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::model::{Host, Network, PIECE};
use crate::steps;

/// The first line of the file.
const HEAD: &str = "delay_us,rate_mbit,ranks,what,seconds";

/// Bytes of data in a frame of 9,014: heads of Ethernet, IP and TCP are the rest.
const PAYLOAD: f64 = 8_948.0 / 9_014.0;

/// A network that was measured on. Without a rate it is as fast as this machine carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub delay_us: u64,
    pub rate_mbit: Option<u64>,
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    link: Link,
    ranks: u32,
    what: String,
    seconds: f64,
}

/// All figures of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured(Vec<Row>);

pub fn file() -> PathBuf {
    steps::root().join("docs/scaling/measured.csv")
}

impl Measured {
    pub fn load() -> Result<Self> {
        let path = file();
        let text = fs::read_to_string(&path).with_context(|| {
            format!("no {}: `cargo xtask scaling --measure` makes it", path.display())
        })?;
        Self::parse(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let rows = text.lines().filter(|line| !line.starts_with('#') && *line != HEAD);
        let row = |line: &str| {
            let [delay, rate, ranks, what, seconds] =
                line.split(',').collect::<Vec<_>>()[..].try_into().ok()?;
            let rate: &str = rate;
            let rate_mbit = if rate.is_empty() { None } else { Some(rate.parse().ok()?) };
            let link = Link { delay_us: str::parse(delay).ok()?, rate_mbit };
            let (ranks, seconds) = (str::parse(ranks).ok()?, str::parse(seconds).ok()?);
            Some(Row { link, ranks, what: str::to_owned(what), seconds })
        };
        let rows: Result<_> =
            rows.map(|line| row(line).with_context(|| format!("not a figure: {line}"))).collect();
        Ok(Self(rows?))
    }

    /// The file's text, with what is to be said about the figures first.
    pub fn to_text(&self, notes: &str) -> String {
        let mut rows = self.0.clone();
        rows.sort_by_key(|row| (row.link, row.ranks));
        let notes: String = notes.lines().map(|line| format!("# {line}\n")).collect();
        let rows = rows.iter().map(|Row { link, ranks, what, seconds }| {
            let rate = link.rate_mbit.map(|rate| rate.to_string()).unwrap_or_default();
            format!("{},{rate},{ranks},{what},{seconds}\n", link.delay_us)
        });
        format!("{notes}{HEAD}\n{}", rows.collect::<String>())
    }

    /// Takes a line of the bench, `what = 0.5 s`; others are not its figures.
    pub fn take(&mut self, link: Link, ranks: u32, line: &str) {
        let figure = || {
            let (what, rest) = line.split_once(" = ")?;
            let seconds = rest.strip_suffix(" s")?.parse().ok()?;
            Some(Row { link, ranks, what: what.to_owned(), seconds })
        };
        self.0.extend(figure());
    }

    /// Figures of a run that is measured anew.
    pub fn forget(&mut self, link: Link, ranks: u32) {
        self.0.retain(|row| (row.link, row.ranks) != (link, ranks));
    }

    pub fn get(&self, link: Link, ranks: u32, what: &str) -> Option<f64> {
        let is = |row: &&Row| row.link == link && row.ranks == ranks && row.what == what;
        self.0.iter().find(is).map(|row| row.seconds)
    }

    fn must(&self, link: Link, ranks: u32, what: &str) -> Result<f64> {
        let known = self.get(link, ranks, what);
        known.with_context(|| format!("{what} of {ranks} ranks was not measured over {link:?}"))
    }

    /// Networks and numbers of ranks, in order.
    pub fn runs(&self) -> Vec<(Link, u32)> {
        let mut runs: Vec<_> = self.0.iter().map(|row| (row.link, row.ranks)).collect();
        runs.sort_unstable();
        runs.dedup();
        runs
    }

    /// What a host takes beside the network while so many ranks share this machine.
    pub fn host(&self, link: Link, ranks: u32) -> Result<Host> {
        Ok(Host {
            staging: self.must(link, ranks, "staging of 4 MiB")? / PIECE,
            fold: self.must(link, ranks, "fold of 4 MiB")? / PIECE,
        })
    }

    /// The network of a run. What messages take beside it is that of two ranks without delay and limit.
    /// The cores of this machine are that of all hosts and the wire between them as well: what so many
    /// ranks take for bytes without a limit comes to what the limit takes.
    pub fn network(&self, link: Link, ranks: u32) -> Result<Network> {
        let free = Link { delay_us: 0, rate_mbit: None };
        // A small message, once on its way.
        let overhead = self.must(free, 2, "gather of 8 bytes")?;
        let exchange = self.must(free, ranks, "exchange of 4096 KiB")?;
        let fold = self.must(free, ranks, "fold of 4 MiB")?;
        let others = f64::from(ranks - 1);
        // A rank sends all but its own range twice.
        let bytes = 2.0 * others / f64::from(ranks) * PIECE;
        let per_byte = ((exchange - fold - 2.0 * others * overhead) / bytes).max(0.0);
        let limit = link.rate_mbit.map_or(f64::INFINITY, |rate| rate as f64 * 1e6 / 8.0 * PAYLOAD);
        let delay = link.delay_us as f64 / 1e6;
        Ok(Network { delay, bandwidth: 1.0 / (per_byte + 1.0 / limit), overhead })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Link = Link { delay_us: 0, rate_mbit: None };
    const SLOW: Link = Link { delay_us: 5000, rate_mbit: Some(100) };

    #[test]
    fn figures_are_written_and_read() {
        let mut measured = Measured::default();
        measured.take(FREE, 2, "gather of 8 bytes = 0.0001 s");
        measured.take(SLOW, 4, "step together = 0.25 s");
        measured.take(FREE, 2, "ranks = 2");
        measured.take(FREE, 2, "==> host 0 sent 3 MB");
        let text = measured.to_text("two\nlines");
        assert!(text.starts_with("# two\n# lines\ndelay_us,"), "{text}");
        assert_eq!(Measured::parse(&text).unwrap(), measured);
        assert_eq!(measured.runs(), [(FREE, 2), (SLOW, 4)]);
        assert_eq!(measured.get(SLOW, 4, "step together"), Some(0.25));
        assert_eq!(measured.get(SLOW, 2, "step together"), None);
        assert!(Measured::parse("1,2,3").is_err());
    }

    #[test]
    fn networks_are_as_slow_as_their_limit() {
        let mut measured = Measured::default();
        let exchange = format!("exchange of 4096 KiB = {} s", 0.0004 + 0.001 + PIECE / 1e9);
        for line in ["gather of 8 bytes = 0.0002 s", "fold of 4 MiB = 0.001 s", &exchange] {
            measured.take(FREE, 2, line);
        }
        let free = measured.network(FREE, 2).unwrap();
        assert_eq!((free.delay, free.overhead), (0.0, 0.0002));
        assert!((free.bandwidth / 1e9 - 1.0).abs() < 1e-9, "{free:?}");
        let slow = measured.network(SLOW, 2).unwrap();
        assert_eq!(slow.delay, 0.005);
        assert!((12.2e6..12.3e6).contains(&slow.bandwidth), "{slow:?}");
        assert!(measured.host(SLOW, 2).is_err());
    }
}
