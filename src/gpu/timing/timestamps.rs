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
    pub async fn read(&self, gpu: &Gpu) -> Result<Vec<Span>> {
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
        Ok(spans(&ticks, f64::from(gpu.queue.get_timestamp_period()) * 1e-9))
    }
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
}
