//! The lavapipe of Mesa 26, which has cooperative matrices, for the tests of them.
//!
//! It is of Debian 13 and its backports, with a C library of its own. All that it depends on is
//! unpacked under target/drivers, and test programs run by the dynamic linker that lies there, so the
//! system stays as it is, and this takes no root.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::drivers;
use crate::install::{Apt, only_file};
use crate::steps::Step;

/// The driver and the loader, from which apt finds what they depend on.
const PACKAGES: [&str; 2] = ["mesa-vulkan-drivers/trixie-backports", "libvulkan1/trixie"];
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];

/// Where programs find everything.
pub struct Mesa26 {
    libraries: PathBuf,
    manifest: PathBuf,
}

impl Mesa26 {
    /// The one that was unpacked before, or now.
    pub fn find_or_unpack() -> Result<Self> {
        ensure!(
            cfg!(all(target_os = "linux", target_arch = "x86_64")),
            "Mesa 26 is unpacked on Linux on x86-64 only"
        );
        let folder = drivers::folder().join("mesa26");
        let found = Self {
            libraries: folder.join("usr/lib/x86_64-linux-gnu"),
            // Written last, when everything else is in place.
            manifest: folder.join("lvp_icd.json"),
        };
        if found.manifest.exists() {
            return Ok(found);
        }
        println!(
            "==> unpacking mesa-vulkan-drivers of trixie-backports, and what it depends on, under {} \
             (60 MB to download, 300 on the disk): the lavapipe that has cooperative matrices",
            folder.display()
        );
        let apt = Apt::new(&folder, &SUITES)?;
        apt.get(&["update"])?;
        let install = ["install", "--yes", "--download-only", "--no-install-recommends"];
        apt.get(&[&install[..], &["--target-release=trixie-backports"], &PACKAGES].concat())?;
        for package in apt.archives()? {
            Step::new("dpkg-deb")
                .args(["-x".as_ref(), package.as_os_str(), folder.as_os_str()])
                .run()?;
        }
        apt.remove()?;
        let library = only_file(&found.libraries, |name| name == "libvulkan_lvp.so")?;
        let linked = Step::new(found.linker())
            .args(["--library-path".as_ref(), found.libraries.as_os_str()])
            .args(["--list".as_ref(), library.as_os_str()])
            .output();
        let linked = linked.context("the unpacked linker does not run")?;
        let missing: Vec<_> = linked.lines().filter(|line| line.contains("not found")).collect();
        ensure!(missing.is_empty(), "it needs libraries that did not come: {}", missing.join(", "));
        drivers::write_manifest(&found.manifest, &library)?;
        Ok(found)
    }

    fn linker(&self) -> PathBuf {
        self.libraries.join("ld-linux-x86-64.so.2")
    }

    /// What makes cargo run programs by that linker, and those take that driver.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut runner = self.linker().into_os_string();
        runner.push(" --library-path ");
        runner.push(&self.libraries);
        let temporary = std::env::var_os("XDG_RUNTIME_DIR");
        vec![
            ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner),
            ("VK_DRIVER_FILES", self.manifest.clone().into()),
            ("VK_ICD_FILENAMES", self.manifest.clone().into()),
            ("WGPU_BACKEND", "vulkan".into()),
            ("XDG_RUNTIME_DIR", temporary.unwrap_or_else(|| std::env::temp_dir().into())),
            ("EVENKEEL_REQUIRE_GPU", "1".into()),
            ("EVENKEEL_REQUIRE_COOPERATIVE_MATRICES", "1".into()),
        ]
    }
}
