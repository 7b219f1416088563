//! TensorBoard's event files: framed records that hold small protocol-buffer messages.

use std::io::Write;

use crate::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use crate::file::LogFile;
use crate::watch::sink::Output;
use crate::watch::{Record, Sink};

/// Writes an event file for [TensorBoard](https://www.tensorflow.org/tensorboard).
///
/// Scalars become scalar charts of the same names, in f32 as the format has it, NaN and Inf
/// included; events become the text `events`.
///
/// A file is a row of frames (*TFRecord*): the length of the data as u64, the masked CRC-32C of
/// those eight bytes, the data, its masked CRC-32C; all little-endian. The data is a message
/// `Event`, whose few fields this needs are written by hand.
#[derive(Debug)]
pub struct TensorBoard<W, C> {
    output: Output<W>,
    clock: C,
}

impl<W: Write, C: FnMut() -> f64> TensorBoard<W, C> {
    /// Begins an event file in anything that can be written to; `clock` tells the time in seconds
    /// since 1970.
    ///
    /// # Errors
    /// If its first frame cannot be written.
    pub fn new(writer: W, clock: C) -> Result<Self> {
        Self::begin(Output::new(writer, "TensorBoard events"), clock)
    }

    fn begin(output: Output<W>, clock: C) -> Result<Self> {
        let mut sink = Self { output, clock };
        sink.event(|event| event.bytes(event::FILE_VERSION, b"brain.Event:2"))?;
        Ok(sink)
    }

    /// Says that this is a run that goes on at `step`: what files before this one have of that step
    /// and later ones, TensorBoard leaves out. To be said before the first record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn continuing(mut self, step: u64) -> Result<Self> {
        self.event(|event| {
            event.integer(event::STEP, step);
            let mut session = Message::default();
            session.integer(session::STATUS, session::START);
            event.message(event::SESSION_LOG, &session);
        })?;
        Ok(self)
    }

    fn event(&mut self, fill: impl FnOnce(&mut Message)) -> Result<()> {
        let mut event = Message::default();
        event.double(event::WALL_TIME, (self.clock)());
        fill(&mut event);
        self.output.write(&frame(&event.0))
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl TensorBoard<LogFile, fn() -> f64> {
    /// Begins an event file in a folder, which is made if it is not there. The file is called
    /// `events.out.tfevents.<seconds>.<host>.<process>.<number>`.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File).
    pub fn create(folder: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = event_file(folder.as_ref())?;
        let output = Output::new(LogFile::resume(&path, 0)?, "TensorBoard events").at(&path);
        Self::begin(output, system_time)
    }
}

/// A new file in a folder.
#[cfg(not(target_arch = "wasm32"))]
fn event_file(folder: &std::path::Path) -> Result<std::path::PathBuf> {
    use crate::file::write_failed;

    std::fs::create_dir_all(folder).map_err(|error| write_failed(folder, &error))?;
    let name = format!(
        "events.out.tfevents.{}.{}.{}",
        system_time() as u64,
        host_name(),
        std::process::id()
    );
    let mut number = 0;
    loop {
        let path = folder.join(format!("{name}.{number}"));
        match std::fs::File::create_new(&path) {
            Ok(_) => return Ok(path),
            // Another run of this process within the same second.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(write_failed(&path, &error)),
        }
    }
}

impl<W: Write, C: FnMut() -> f64> Sink for TensorBoard<W, C> {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.event(|event| {
            event.integer(event::STEP, record.step);
            let mut summary = Message::default();
            for (name, scalar) in record.scalars() {
                let mut value = Message::default();
                value.bytes(value::TAG, name.as_bytes());
                value.float(value::SIMPLE_VALUE, scalar as f32);
                summary.message(summary::VALUE, &value);
            }
            if !record.events.is_empty() {
                summary.message(summary::VALUE, &text("events", &record.events.join("\n\n")));
            }
            event.message(event::SUMMARY, &summary);
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.output.flush()
    }
}

/// A value for the plugin that shows texts: a string tensor without dimensions.
fn text(tag: &str, text: &str) -> Message {
    let mut plugin = Message::default();
    plugin.bytes(plugin_data::PLUGIN_NAME, b"text");
    let mut metadata = Message::default();
    metadata.message(metadata::PLUGIN_DATA, &plugin);
    metadata.integer(metadata::DATA_CLASS, metadata::DATA_CLASS_TENSOR);
    let mut tensor = Message::default();
    tensor.integer(tensor::DTYPE, tensor::DT_STRING);
    tensor.message(tensor::SHAPE, &Message::default());
    tensor.bytes(tensor::STRING_VAL, text.as_bytes());
    let mut value = Message::default();
    value.bytes(value::TAG, tag.as_bytes());
    value.message(value::TENSOR, &tensor);
    value.message(value::METADATA, &metadata);
    value
}

// Field numbers of TensorFlow's event.proto, summary.proto and tensor.proto.

mod event {
    pub const WALL_TIME: u32 = 1;
    pub const STEP: u32 = 2;
    pub const FILE_VERSION: u32 = 3;
    pub const SUMMARY: u32 = 5;
    pub const SESSION_LOG: u32 = 7;
}

mod session {
    pub const STATUS: u32 = 1;
    pub const START: u64 = 1;
}

mod summary {
    pub const VALUE: u32 = 1;
}

mod value {
    pub const TAG: u32 = 1;
    pub const SIMPLE_VALUE: u32 = 2;
    pub const TENSOR: u32 = 8;
    pub const METADATA: u32 = 9;
}

mod metadata {
    pub const PLUGIN_DATA: u32 = 1;
    pub const DATA_CLASS: u32 = 4;
    pub const DATA_CLASS_TENSOR: u64 = 2;
}

mod plugin_data {
    pub const PLUGIN_NAME: u32 = 1;
}

mod tensor {
    pub const DTYPE: u32 = 1;
    pub const SHAPE: u32 = 2;
    pub const STRING_VAL: u32 = 8;
    pub const DT_STRING: u64 = 7;
}

/// A protocol-buffer message being written: each field is a key (number and wire type) and a value.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    const VARINT: u32 = 0;
    const FIXED64: u32 = 1;
    const LENGTH_DELIMITED: u32 = 2;
    const FIXED32: u32 = 5;

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    /// Seven bits a byte, the lowest first; the top bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(&mut self, field: u32, value: u64) {
        self.key(field, Self::VARINT);
        self.varint(value);
    }

    fn double(&mut self, field: u32, value: f64) {
        self.key(field, Self::FIXED64);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u32, value: f32) {
        self.key(field, Self::FIXED32);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.key(field, Self::LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn message(&mut self, field: u32, message: &Self) {
        self.bytes(field, &message.0);
    }
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(data.len() + 16);
    frame.extend(length);
    frame.extend(masked_crc(&length).to_le_bytes());
    frame.extend(data);
    frame.extend(masked_crc(data).to_le_bytes());
    frame
}

/// Rotated and shifted, so that a checksum of data that holds checksums stays a good one.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli) of every byte.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &byte| crc >> 8 ^ CRC_TABLE[(crc as u8 ^ byte) as usize])
}

#[cfg(not(target_arch = "wasm32"))]
fn system_time() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |time| time.as_secs_f64())
}

/// The machine's name as far as files and variables tell it, without what a file name may not hold.
#[cfg(not(target_arch = "wasm32"))]
fn host_name() -> String {
    let file = |path| std::fs::read_to_string(path).ok();
    let variable = |name| std::env::var(name).ok();
    let name = file("/proc/sys/kernel/hostname")
        .or_else(|| file("/etc/hostname"))
        .or_else(|| variable("HOSTNAME"))
        .or_else(|| variable("COMPUTERNAME"))
        .unwrap_or_default();
    let allowed = |character: &char| character.is_ascii_alphanumeric() || *character == '-';
    let name: String = name.trim().chars().filter(allowed).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

#[cfg(test)]
mod checks {
    #[test]
    fn crc_gives_the_published_check_value() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, section B.4.
        assert_eq!(super::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(super::crc32c(&[0xff; 32]), 0x62a8_ab43);
    }
}
