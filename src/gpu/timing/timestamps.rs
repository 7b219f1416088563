//! Time by the device's own clock: a compute pass per dispatch, between two timestamps.

use std::ops::Range;

use super::Span;
use crate::error::Result;
use crate::gpu::{Dispatch, Gpu};

/// Timestamps of so many dispatches fit one query set.
const PER_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

/// Two timestamps for each dispatch of a list.
#[derive(Debug)]
pub(crate) struct Timestamps {
    sets: Vec<wgpu::QuerySet>,
    first: usize,
    count: usize,
}

impl Timestamps {
    /// For dispatches of these numbers, on a device with [`wgpu::Features::TIMESTAMP_QUERY`].
    pub fn new(gpu: &Gpu, list: Range<usize>) -> Self {
        let count = list.len();
        let set = |first: usize| {
            gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * PER_SET.min(count - first) as u32,
            })
        };
        Self { sets: (0..count).step_by(PER_SET).map(set).collect(), first: list.start, count }
    }

    /// Encodes dispatch number `index` in a pass of its own.
    pub fn encode(
        &self,
        gpu: &Gpu,
        encoder: &mut wgpu::CommandEncoder,
        index: usize,
        dispatch: &Dispatch,
    ) {
        let index = index - self.first;
        let query = 2 * (index % PER_SET) as u32;
        let writes = wgpu::ComputePassTimestampWrites {
            query_set: &self.sets[index / PER_SET],
            beginning_of_pass_write_index: Some(query),
            end_of_pass_write_index: Some(query + 1),
        };
        gpu.encode_pass(encoder, Some(writes), [dispatch]);
    }

    /// When each dispatch ran, once all were submitted.
    pub async fn read(&self, gpu: &Gpu) -> Result<Stamped> {
        use wgpu::BufferUsages as Usage;
        // Every set but the last is full, and 32 KiB long.
        let bytes = 16 * self.count as u64;
        let resolved = gpu.create("timestamps", bytes, Usage::QUERY_RESOLVE | Usage::COPY_SRC);
        let staging = gpu.staging(bytes);
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        for (set, first) in self.sets.iter().zip((0..self.count).step_by(PER_SET)) {
            let queries = 2 * PER_SET.min(self.count - first) as u32;
            encoder.resolve_query_set(set, 0..queries, &resolved, 16 * first as u64);
        }
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
        gpu.submit(encoder);
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&gpu.map(&staging).await?);
        let period = f64::from(gpu.queue.get_timestamp_period()) * 1e-9;
        Ok(Stamped { spans: spans(&ticks, period), quantum: period * quantum(&ticks) as f64 })
    }
}

/// What timestamps tell.
#[derive(Debug)]
pub(crate) struct Stamped {
    pub spans: Vec<Span>,
    /// Seconds that all distances between timestamps are multiples of: at least the step in which
    /// the clock moves. Browsers let it move in steps of 65.5 or 100 µs.
    pub quantum: f64,
}

impl Stamped {
    /// Seconds of each dispatch.
    pub fn seconds(&self) -> impl Iterator<Item = f64> {
        self.spans.iter().map(|span| span.seconds())
    }
}

/// The greatest common divisor of all distances; 0 where there is none.
fn quantum(ticks: &[u64]) -> u64 {
    let common = |a: u64, b: u64| {
        let (mut a, mut b) = (a, b);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    ticks.windows(2).fold(0, |all, pair| common(all, pair[0].abs_diff(pair[1])))
}

/// From pairs of ticks to seconds after the first. Clocks may be set back, and passes may overlap:
/// then a dispatch begins where the one before has ended.
fn spans(ticks: &[u64], period: f64) -> Vec<Span> {
    let Some(&first) = ticks.first() else { return Vec::new() };
    let mut now = first;
    let mut at = |tick: u64| {
        now = now.max(tick);
        (now - first) as f64 * period
    };
    ticks.chunks_exact(2).map(|pair| Span { begin: at(pair[0]), end: at(pair[1]) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_follow_each_other() {
        let span = |begin, end| Span { begin, end };
        let found = spans(&[100, 104, 106, 107], 0.5);
        assert_eq!(found, [span(0.0, 2.0), span(3.0, 3.5)]);
        let overlapping = spans(&[100, 108, 102, 110, 90, 95, 111, 112], 1.0);
        let expected = [span(0.0, 8.0), span(8.0, 10.0), span(10.0, 10.0), span(11.0, 12.0)];
        assert_eq!(overlapping, expected);
        assert_eq!(spans(&[], 1.0), []);
    }

    #[test]
    fn the_step_of_a_clock_is_seen() {
        assert_eq!(quantum(&[100, 164, 292, 228, 228, 1252]), 64);
        assert_eq!(quantum(&[7, 7, 10, 12]), 1);
        assert_eq!((quantum(&[]), quantum(&[5]), quantum(&[5, 5])), (0, 0, 0));
    }
}
