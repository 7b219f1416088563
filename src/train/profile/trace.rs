//! A profile as a timeline, in the Trace Event Format of Chrome's tracing.

use std::fmt::Write;

use super::{Profile, ProfiledDispatch};
use crate::json::push_string;

/// The rows of the timeline from the top: `tid` and name.
const STAGES: (u32, &str) = (1, "stages");
const MODULES: (u32, &str) = (2, "modules");
const KERNELS: (u32, &str) = (3, "kernels");

impl Profile {
    /// The step as a timeline that <https://ui.perfetto.dev> and `chrome://tracing` open: a JSON
    /// object with complete events, times in microseconds, in three rows. The row `kernels` has an
    /// event per dispatch, whose arguments say operation, module, bytes and operations; above it
    /// neighbours of one module and of one stage are joined.
    pub fn trace(&self) -> String {
        let mut text = String::from("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[");
        push_name(&mut text, "process_name", 0, &self.adapter);
        for (row, name) in [STAGES, MODULES, KERNELS] {
            text.push_str(",\n");
            push_name(&mut text, "thread_name", row, name);
        }
        self.push_joined(&mut text, STAGES.0, |dispatch| dispatch.stage.name());
        self.push_joined(&mut text, MODULES.0, |dispatch| dispatch.module_at(usize::MAX));
        for dispatch in &self.dispatches {
            let [begin, end] = dispatch.nanoseconds();
            push_event(&mut text, dispatch.kernel, KERNELS.0, begin, end);
            push_arguments(&mut text, dispatch);
            text.push('}');
        }
        text.push_str("\n]}\n");
        text
    }

    /// Events for runs of dispatches with the same name.
    fn push_joined(&self, text: &mut String, row: u32, name: fn(&ProfiledDispatch) -> &str) {
        for run in self.dispatches.chunk_by(|a, b| name(a) == name(b)) {
            let [begin, end] = [&run[0], &run[run.len() - 1]].map(ProfiledDispatch::nanoseconds);
            push_event(text, name(&run[0]), row, begin[0], end[1]);
            text.push('}');
        }
    }
}

impl ProfiledDispatch {
    /// When it begins and ends: whole numbers, so that no event reaches into the next one.
    fn nanoseconds(&self) -> [u64; 2] {
        [self.begin, self.begin + self.seconds].map(|seconds| (1e9 * seconds).round() as u64)
    }
}

/// The name of the process or of a row.
fn push_name(text: &mut String, kind: &str, row: u32, name: &str) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{{\"ph\":\"M\",\"pid\":1,\"tid\":{row},\"name\":\"{kind}\",\"args\":{{");
    text.push_str("\"name\":");
    push_string(text, name);
    text.push_str("}}");
}

/// A complete event, without the brace that ends it.
fn push_event(text: &mut String, name: &str, row: u32, begin: u64, end: u64) {
    text.push_str(",\n{\"name\":");
    push_string(text, name);
    let _ = write!(text, ",\"ph\":\"X\",\"pid\":1,\"tid\":{row}");
    for (key, nanoseconds) in [("ts", begin), ("dur", end - begin)] {
        let (whole, rest) = (nanoseconds / 1000, nanoseconds % 1000);
        let _ = write!(text, ",\"{key}\":{whole}.{rest:03}");
    }
}

fn push_arguments(text: &mut String, dispatch: &ProfiledDispatch) {
    text.push_str(",\"cat\":");
    push_string(text, dispatch.stage.name());
    text.push_str(",\"args\":{\"operation\":");
    push_string(text, &dispatch.label);
    text.push_str(",\"module\":");
    push_string(text, &dispatch.module);
    if let Some(microbatch) = dispatch.microbatch {
        let _ = write!(text, ",\"microbatch\":{microbatch}");
    }
    let work = dispatch.work;
    let _ = write!(
        text,
        ",\"read bytes\":{},\"written bytes\":{},\"operations\":{},\"workgroups\":{}}}",
        work.read_bytes, work.written_bytes, work.operations, dispatch.workgroups
    );
}
