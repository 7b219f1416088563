//! The wire between hosts: it carries frames from one host's device to another's, some time later.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tappers::Tap;

/// Longest frame, with its head.
const LONGEST: usize = super::network::MTU + 64;

/// The address of a host's device; the last byte counts hosts from 1 on.
const ADDRESS: [u8; 5] = [2, 0, 0, 0, 0];

/// What a host has sent.
#[derive(Default)]
struct Counter {
    bytes: AtomicU64,
    frames: AtomicU64,
}

/// A frame on its way.
struct Carried {
    due: Instant,
    from: usize,
    frame: Vec<u8>,
}

/// Threads that carry until the devices are gone.
pub struct Wire {
    counters: Arc<Vec<Counter>>,
}

impl Wire {
    /// Carries between these devices, which are those of the hosts in their order. All frames are as
    /// long on their way, so that they arrive as they were sent.
    pub fn new(devices: Vec<Tap>, delay: Duration) -> Self {
        let counters: Arc<Vec<_>> = Arc::new(devices.iter().map(|_| Counter::default()).collect());
        let devices = Arc::new(devices);
        let (sender, receiver) = channel();
        for from in 0..devices.len() {
            let (devices, counters) = (devices.clone(), counters.clone());
            let sender = sender.clone();
            thread::spawn(move || take(&devices[from], from, delay, &counters[from], &sender));
        }
        thread::spawn(move || bring(&devices, &receiver));
        Self { counters }
    }

    /// Bytes and frames that each host has sent.
    pub fn carried(&self) -> Vec<(u64, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.counters.iter().map(|one| (read(&one.bytes), read(&one.frames))).collect()
    }
}

/// The hardware address of a host's device.
pub fn address(host: usize) -> String {
    let [a, b, c, d, e] = ADDRESS;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{:02x}", host + 1)
}

/// Takes what a host sends, until its device is gone.
fn take(device: &Tap, from: usize, delay: Duration, counter: &Counter, to: &Sender<Carried>) {
    let mut buffer = [0; LONGEST];
    while let Ok(length) = device.recv(&mut buffer) {
        let (due, frame) = (Instant::now() + delay, buffer[..length].to_vec());
        counter.bytes.fetch_add(length as u64, Ordering::Relaxed);
        counter.frames.fetch_add(1, Ordering::Relaxed);
        if to.send(Carried { due, from, frame }).is_err() {
            return;
        }
    }
}

/// Brings what was taken to where it belongs, when it is due.
fn bring(devices: &[Tap], from: &Receiver<Carried>) {
    for Carried { due, from, frame } in from {
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            thread::sleep(wait);
        }
        for (_, device) in devices.iter().enumerate().filter(|(to, _)| is_for(&frame, from, *to)) {
            // A device that is down, or gone, takes nothing: the frame is lost, as on a wire.
            device.send(&frame).unwrap_or(0);
        }
    }
}

/// Whether a frame of one host goes to another: by its address, and to all where it is no host's.
fn is_for(frame: &[u8], from: usize, to: usize) -> bool {
    let named = frame.strip_prefix(&ADDRESS[..]).and_then(|rest| rest.first());
    to != from && named.is_none_or(|&last| usize::from(last) == to + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_go_where_they_are_addressed() {
        let to = |frame: &[u8], from| (0..3).filter(|&to| is_for(frame, from, to)).collect();
        let to: &dyn Fn(&[u8], usize) -> Vec<usize> = &to;
        assert_eq!(address(1), "02:00:00:00:00:02");
        assert_eq!(to(&[2, 0, 0, 0, 0, 2, 7, 7], 0), [1]);
        assert_eq!(to(&[2, 0, 0, 0, 0, 1, 7, 7], 2), [0]);
        assert_eq!(to(&[0xff; 14], 1), [0, 2], "all but the one that sent");
        assert_eq!(to(&[2, 0, 0, 0, 0, 2], 1), [0; 0], "none to itself");
        assert_eq!(to(&[2, 0, 0, 0, 0, 9], 1), [0; 0], "nor to a host that is not there");
        assert_eq!(to(&[2], 1), [0, 2], "of what has no address all decide");
    }
}
