//! The same work again and again, with barriers, atomics and dispatches that wait for each other:
//! whatever differs has raced.

use super::{Check, Gpu, Outcome, random_words, whole};
use crate::error::Result;
use crate::gpu::Dispatch;
use crate::kernels::{ProbeRace, ProbeRaceParams};
use crate::reference;

/// Dispatches in a chain; each reads what all workgroups of the one before wrote.
const CHAIN: usize = 6;
const ROUNDS: u32 = 8;
const STRIDE: u32 = 4099;

/// Whether the same work gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Races {
    /// Times that the work was done.
    pub repeats: usize,
    /// Repeats whose bits are not those of the first.
    pub differing: usize,
    /// Repeats whose bits are not the right ones.
    pub wrong: usize,
}

pub(super) struct Probe {
    input: Vec<u32>,
    repeats: usize,
    last: wgpu::Buffer,
    totals: wgpu::Buffer,
    /// Per repeat the words and totals that the chain ends with.
    results: wgpu::Buffer,
    dispatches: Vec<Dispatch>,
}

impl Probe {
    pub(super) fn prepare(gpu: &Gpu) -> Self {
        // Enough workgroups to fill a device many times over; software drivers get less.
        let (count, repeats) = if gpu.is_software() { (1 << 12, 8) } else { (1 << 17, 32) };
        let input: Vec<_> = (0..count).map(|i| random_words(104, i)[0]).collect();
        let x = gpu.upload("words", &input);
        let buffers = [gpu.buffer("even", x.size()), gpu.buffer("odd", x.size())];
        let totals = gpu.buffer("totals", 16);
        let results = gpu.buffer("results", (x.size() + 16) * repeats as u64);
        let link = |place: usize| {
            let from = if place == 0 { &x } else { &buffers[(place + 1) % 2] };
            gpu.prepare(&ProbeRace {
                params: ProbeRaceParams { count: count as u32, rounds: ROUNDS, stride: STRIDE },
                x: whole(from),
                y: whole(&buffers[place % 2]),
                totals: whole(&totals),
            })
        };
        let dispatches = (0..CHAIN).map(link).collect();
        let [even, odd] = buffers;
        let last = if CHAIN.is_multiple_of(2) { odd } else { even };
        Self { input, repeats, last, totals, results, dispatches }
    }

    pub(super) fn encode(&self, gpu: &Gpu, encoder: &mut wgpu::CommandEncoder) {
        for repeat in 0..self.repeats as u64 {
            let (size, at) = (self.last.size(), repeat * (self.last.size() + 16));
            encoder.clear_buffer(&self.totals, 0, None);
            gpu.encode(encoder, &self.dispatches);
            encoder.copy_buffer_to_buffer(&self.last, 0, &self.results, at, size);
            encoder.copy_buffer_to_buffer(&self.totals, 0, &self.results, at + size, 16);
        }
    }

    pub(super) async fn read(&self, gpu: &Gpu) -> Result<Races> {
        let count = (self.input.len() + 4) * self.repeats;
        let results: Vec<u32> = gpu.read(&self.results, 0, count).await?;
        let repeats: Vec<_> = results.chunks_exact(self.input.len() + 4).collect();
        Ok(Races::judge(&repeats, &expected(&self.input)))
    }
}

/// The words and the totals after the chain; the totals gather over all of it.
fn expected(input: &[u32]) -> Vec<u32> {
    let (mut words, mut totals) = (input.to_vec(), [0u32; 4]);
    for _ in 0..CHAIN {
        let (next, [sum, xor, largest]) = reference::probe::probe_race(ROUNDS, STRIDE, &words);
        totals = [totals[0].wrapping_add(sum), totals[1] ^ xor, totals[2].max(largest), 0];
        words = next;
    }
    words.extend(totals);
    words
}

impl Races {
    fn judge(repeats: &[&[u32]], expected: &[u32]) -> Self {
        Self {
            repeats: repeats.len(),
            differing: repeats.iter().filter(|repeat| **repeat != repeats[0]).count(),
            wrong: repeats.iter().filter(|repeat| **repeat != expected).count(),
        }
    }

    pub(super) fn check(&self) -> Check {
        let Self { repeats, differing, wrong } = *self;
        let (outcome, found) = match (differing, wrong) {
            (0, 0) => (Outcome::Pass, format!("{repeats} runs, all bits equal and right")),
            (0, _) => (Outcome::Fail, format!("{repeats} runs, equal but wrong")),
            _ => (Outcome::Fail, format!("{wrong} of {repeats} runs wrong, and not alike")),
        };
        let consequence = match outcome {
            Outcome::Pass => "a run can be repeated bit for bit from its seed",
            _ => "barriers or atomics do not hold: do not train here",
        };
        Check { name: "races", outcome, found, consequence: consequence.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_differ_or_are_wrong_fail() {
        let (right, wrong): (&[u32], &[u32]) = (&[1, 2, 3], &[1, 2, 4]);
        let judge = |repeats: &[&[u32]]| {
            let races = Races::judge(repeats, right);
            (races.differing, races.wrong, races.check().outcome)
        };
        assert_eq!(judge(&[right, right]), (0, 0, Outcome::Pass));
        assert_eq!(judge(&[right, wrong, right]), (1, 1, Outcome::Fail));
        assert_eq!(judge(&[wrong, right, right]), (2, 1, Outcome::Fail));
        assert_eq!(judge(&[wrong, wrong]), (0, 2, Outcome::Fail));
    }

    /// Leaving out one exchange or one link of the chain must not go unseen.
    #[test]
    fn every_link_counts() {
        let input: Vec<_> = (0..512).map(|i| random_words(7, i)[0]).collect();
        let (once, _) = reference::probe::probe_race(ROUNDS, STRIDE, &input);
        let (fewer, _) = reference::probe::probe_race(ROUNDS - 1, STRIDE, &input);
        let (straight, _) = reference::probe::probe_race(ROUNDS, 1, &input);
        let same = |a: &[u32], b: &[u32]| a.iter().zip(b).filter(|(a, b)| a == b).count();
        assert_eq!((same(&once, &fewer), same(&once, &straight)), (0, 0));
    }
}
