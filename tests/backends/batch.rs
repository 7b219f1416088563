//! Translations on their way to a compiler, and everything that was found wrong with them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cases::{self, Case};
use crate::tools::Tool;
use crate::translate::Shader;

/// The name of a file that the compiler must reject, so that no test passes without one.
const BROKEN: &str = "broken";

pub struct Batch {
    name: &'static str,
    folder: PathBuf,
    files: Vec<String>,
    list: String,
    failures: Vec<String>,
}

impl Batch {
    /// An empty folder under target/.
    pub fn new(name: &'static str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("backends").join(name);
        // What an earlier run left must not be mistaken for this one's.
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("an old folder can be removed");
        }
        fs::create_dir_all(&folder).expect("a folder for translations");
        Self { name, folder, files: Vec::new(), list: String::new(), failures: Vec::new() }
    }

    /// Translates every kernel for which `translate` gives something. `line` is what the compiler's
    /// list says before the name.
    pub fn translate<T: AsRef<[u8]>>(
        &mut self,
        line: impl Fn(&Case) -> String,
        translate: impl Fn(&Case, &Shader<'_>) -> Option<Result<T, String>>,
    ) {
        self.translate_all(cases::all(), line, translate);
    }

    /// The same for these cases.
    pub fn translate_all<T: AsRef<[u8]>>(
        &mut self,
        cases: impl Iterator<Item = Case>,
        line: impl Fn(&Case) -> String,
        translate: impl Fn(&Case, &Shader<'_>) -> Option<Result<T, String>>,
    ) {
        for case in cases {
            let shader = match Shader::new(&case) {
                Ok(shader) => shader,
                Err(error) => {
                    self.fail(&case.to_string(), &error);
                    continue;
                }
            };
            match translate(&case, &shader) {
                Some(Ok(text)) => self.add(&case.to_string(), &line(&case), text.as_ref()),
                Some(Err(error)) => self.fail(&case.to_string(), &error),
                None => (),
            }
        }
        assert!(!self.files.is_empty(), "{}: nothing was translated", self.name);
    }

    /// Has everything compiled, and `broken` with it; fails with all that was found.
    pub fn finish(mut self, tool: Option<Tool>, line: &str, broken: &[u8]) {
        if let Some(tool) = tool {
            fs::write(self.folder.join(BROKEN), broken).expect("a file for a translation");
            let list = format!("{line} {BROKEN}\n");
            match tool.run(&self.folder, &[BROKEN.to_owned()], &list).remove(BROKEN) {
                Some(Err(message)) if !message.starts_with("no answer") => (),
                verdict => self.fail(BROKEN, &format!("should be rejected: {verdict:?}")),
            }
            for (name, verdict) in tool.run(&self.folder, &self.files, &self.list) {
                if let Err(message) = verdict {
                    self.fail(&name, &message);
                }
            }
        }
        let count = self.files.len();
        assert!(
            self.failures.is_empty(),
            "{} of {count} failed:\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
    }

    pub fn fail(&mut self, name: &str, message: &str) {
        self.failures.push(format!("{} {name}: {}", self.name, message.trim()));
    }

    fn add(&mut self, name: &str, line: &str, text: &[u8]) {
        fs::write(self.folder.join(name), text).expect("a file for a translation");
        self.files.push(name.to_owned());
        self.list.push_str(&format!("{line} {name}\n"));
    }
}
