//! Software drivers from the system's package manager, and a newer Mesa for Debian 12.
//!
//! Only root can install, and only what was named on the line before. Without root the line to
//! run is the error.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::drivers::{self, Kind};
use crate::steps::Step;

/// How a family of distributions names what we need.
struct Packages {
    /// What `ID` or `ID_LIKE` in /etc/os-release say.
    systems: &'static [&'static str],
    /// Brings the package lists up to date.
    update: Option<&'static str>,
    install: &'static str,
    lavapipe: &'static str,
    swiftshader: &'static str,
}

const PACKAGES: [Packages; 5] = [
    Packages {
        systems: &["debian", "ubuntu"],
        update: Some("apt-get update"),
        install: "apt-get install --yes --no-install-recommends",
        lavapipe: "libvulkan1 mesa-vulkan-drivers",
        swiftshader: "libvulkan1 chromium",
    },
    Packages {
        systems: &["fedora", "rhel"],
        update: None,
        install: "dnf install --assumeyes",
        lavapipe: "vulkan-loader mesa-vulkan-drivers",
        swiftshader: "vulkan-loader chromium",
    },
    Packages {
        systems: &["arch"],
        update: None,
        install: "pacman --sync --needed --noconfirm",
        lavapipe: "vulkan-icd-loader vulkan-swrast",
        swiftshader: "vulkan-icd-loader chromium",
    },
    Packages {
        systems: &["suse", "opensuse"],
        update: None,
        install: "zypper --non-interactive install",
        lavapipe: "libvulkan1 libvulkan_lvp",
        swiftshader: "libvulkan1 chromium",
    },
    Packages {
        systems: &["alpine"],
        update: None,
        install: "apk add",
        lavapipe: "vulkan-loader mesa-vulkan-swrast",
        swiftshader: "vulkan-loader chromium",
    },
];

/// Installs a software driver. Of a graphics card's driver only its owner knows which it is.
pub fn driver(kind: Kind) -> Result<()> {
    let system = Packages::here()?;
    let packages = match kind {
        Kind::Hardware => bail!("no driver with its graphics card was found: install the card's"),
        Kind::Lavapipe => system.lavapipe,
        Kind::SwiftShader => system.swiftshader,
    };
    println!("==> {kind} is missing; it comes with the packages {packages}");
    system.install(packages)
}

/// Installs Debian packages; elsewhere `hint` says what to do instead.
pub fn debian_packages(packages: &str, hint: &str) -> Result<()> {
    let debian = &PACKAGES[0];
    ensure!(debian.matches(&os_release()), "{hint}");
    println!("==> installing the packages {packages}");
    debian.install(packages)
}

impl Packages {
    fn here() -> Result<&'static Self> {
        let release = os_release();
        PACKAGES.iter().find(|packages| packages.matches(&release)).context(
            "no known package manager: install the Vulkan loader and Mesa's lavapipe by hand",
        )
    }

    fn matches(&self, release: &str) -> bool {
        let id = field(release, "ID");
        let like = field(release, "ID_LIKE");
        let mut names = id.split(' ').chain(like.split(' '));
        names.any(|name| self.systems.iter().any(|system| name.starts_with(system)))
    }

    fn install(&self, packages: &str) -> Result<()> {
        let install = format!("{} {packages}", self.install);
        let lines: Vec<_> = self.update.into_iter().chain([install.as_str()]).collect();
        if !is_root() {
            let line = lines.iter().map(|line| format!("sudo {line}")).collect::<Vec<_>>();
            bail!("this takes root. Run this, then start again:\n\n    {}\n", line.join(" && "));
        }
        for line in lines {
            let mut words = line.split(' ');
            let program = words.next().context("a program")?;
            Step::new(program)
                .args(words)
                .envs([("DEBIAN_FRONTEND", "noninteractive")])
                .run()
                .with_context(|| format!("the package manager could not bring {packages}"))?;
        }
        Ok(())
    }
}

fn is_root() -> bool {
    Step::new("id").args(["-u"]).output().is_some_and(|id| id.trim() == "0")
}

fn os_release() -> String {
    fs::read_to_string("/etc/os-release").unwrap_or_default()
}

/// A field of /etc/os-release without its quotes; empty where it is missing.
fn field(release: &str, name: &str) -> String {
    let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches('"').to_owned()
}

pub fn is_debian_12() -> bool {
    let release = os_release();
    field(&release, "ID") == "debian" && field(&release, "VERSION_ID") == "12"
}

fn newer_mesa_folder() -> PathBuf {
    drivers::folder().join("mesa25")
}

/// The manifest that [`newer_mesa`] writes last, when everything else is in place.
pub fn newer_mesa_manifest() -> PathBuf {
    newer_mesa_folder().join("lvp_icd.json")
}

/// Unpacks lavapipe of Mesa 25 from bookworm-backports under target/drivers. The system's
/// packages and sources stay as they are, so this takes no root; the libraries it needs came with
/// Mesa 22.
pub fn newer_mesa() -> Result<PathBuf> {
    println!(
        "==> unpacking mesa-vulkan-drivers of bookworm-backports under {} (11 MB; 4 to 8 times \
         faster than Debian 12's own)",
        newer_mesa_folder().display()
    );
    let folder = newer_mesa_folder();
    let apt = Apt::new(&folder, &["bookworm-backports"])?;
    apt.get(&["update"])?;
    apt.get(&["download", "mesa-vulkan-drivers/bookworm-backports"])?;
    let package = only_file(&apt.folder, |name| name.starts_with("mesa-vulkan-drivers_"))?;
    Step::new("dpkg-deb").args(["-x".as_ref(), package.as_os_str(), folder.as_os_str()]).run()?;
    let libraries = folder.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let library = only_file(&libraries, |name| name == "libvulkan_lvp.so")?;
    let linked = Step::new("ldd").args([&library]).output().context("ldd cannot read it")?;
    let missing: Vec<_> = linked.lines().filter(|line| line.contains("not found")).collect();
    ensure!(missing.is_empty(), "it needs libraries that are not here: {}", missing.join(", "));
    apt.remove()?;
    drivers::write_manifest(&newer_mesa_manifest(), &library)?;
    Ok(newer_mesa_manifest())
}

/// apt over sources and lists of its own, which leaves those of the system as they are.
pub struct Apt {
    /// Where it keeps them, and what it downloads.
    pub folder: PathBuf,
    settings: Vec<String>,
}

impl Apt {
    /// Over these suites of the mirror that serves the system, in a folder of `parent`.
    pub fn new(parent: &Path, suites: &[&str]) -> Result<Self> {
        let folder = parent.join("apt");
        for part in ["parts", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let source =
            source(&configured_sources(), suites).context("no Debian mirror is configured")?;
        fs::write(folder.join("parts/own.sources"), source)?;
        // Of packages that are installed it knows none.
        let status = folder.join("status");
        fs::write(&status, "")?;
        let settings = vec![
            "Dir::Etc::SourceList=/dev/null".to_owned(),
            format!("Dir::Etc::SourceParts={}", folder.join("parts").display()),
            format!("Dir::State::Lists={}", folder.join("lists").display()),
            format!("Dir::State::status={}", status.display()),
            format!("Dir::Cache={}", folder.join("cache").display()),
            // apt would give the download to its own user, who cannot write here.
            format!("APT::Sandbox::User={}", if is_root() { "root" } else { "" }),
            "Debug::NoLocking=true".to_owned(),
        ];
        Ok(Self { folder, settings })
    }

    /// Runs apt-get.
    pub fn get(&self, words: &[&str]) -> Result<()> {
        let options = self.settings.iter().flat_map(|setting| ["-o", setting]);
        let step = Step::new("apt-get").args(["--quiet=2"]).args(options).args(words);
        step.current_dir(&self.folder).run()
    }

    /// What it downloaded with all that it depends on.
    pub fn archives(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.folder.join("cache/archives"))?;
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "deb"));
        Ok(files)
    }

    pub fn remove(self) -> Result<()> {
        Ok(fs::remove_dir_all(self.folder)?)
    }
}

pub fn only_file(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.file_name().is_some_and(|name| wanted(&name.to_string_lossy())));
    ensure!(files.len() == 1, "expected one file in {}, not {files:?}", folder.display());
    Ok(files.remove(0))
}

/// The text of apt's source files.
fn configured_sources() -> String {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<_> = parts.map(|entry| entry.path()).collect();
    files.sort();
    files.push("/etc/apt/sources.list".into());
    // Each file is a paragraph of its own; one that cannot be read names no mirror to us.
    files.iter().flat_map(fs::read_to_string).collect::<Vec<_>>().join("\n\n")
}

/// A source of suites on the mirror that serves Debian 12 or 13 itself.
fn source(sources: &str, suites: &[&str]) -> Option<String> {
    let is_own = |suite: &str| ["bookworm", "trixie"].contains(&suite);
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let mirror = sources.split("\n\n").find_map(|paragraph| {
        let value =
            |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let serves = |suites: &str| suites.split_whitespace().any(is_own);
        let one_line = || {
            paragraph.lines().find_map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                let suite = words.iter().position(|&word| is_own(word))?;
                let is_main = words[0] == "deb" && words[suite..].contains(&"main");
                is_main.then(|| words[suite - 1])
            })
        };
        match (value("URIs:"), value("Suites:")) {
            (Some(uris), Some(suites)) if serves(suites) => uris.split_whitespace().next(),
            _ => one_line(),
        }
    })?;
    Some(format!(
        "Types: deb\nURIs: {mirror}\nSuites: {}\nComponents: main\nSigned-By: {keyring}\n",
        suites.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(release: &str) -> Option<&'static str> {
        PACKAGES.iter().find(|packages| packages.matches(release)).map(|p| p.install)
    }

    #[test]
    fn systems_are_known_by_id_or_by_what_they_are_like() {
        assert!(system("NAME=x\nID=debian\n").unwrap().starts_with("apt-get"));
        assert!(system("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").unwrap().starts_with("apt"));
        assert!(system("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"").unwrap().starts_with("dnf"));
        assert!(system("ID=\"opensuse-tumbleweed\"\n").unwrap().starts_with("zypper"));
        assert!(system("ID=manjaro\nID_LIKE=arch\n").unwrap().starts_with("pacman"));
        assert_eq!(system("ID=plan9\n"), None);
        assert_eq!(system(""), None);
    }

    #[test]
    fn the_mirror_is_the_one_of_bookworm() {
        let security = "Types: deb\nURIs: http://d/security\nSuites: bookworm-security\n";
        let main = "Types: deb\nURIs: http://d/debian\nSuites: bookworm bookworm-updates\n";
        let backports = |sources: &str| source(sources, &["bookworm-backports"]);
        let source = backports(&format!("{security}\n{main}")).unwrap();
        assert!(source.contains("URIs: http://d/debian\nSuites: bookworm-backports\n"));
        let list = "# deb http://no/ bookworm main\ndeb-src http://no/ bookworm main\n\
                    deb http://s/ bookworm-security main\n\
                    deb [signed-by=/k.gpg] http://yes/debian bookworm main contrib\n";
        assert!(backports(list).unwrap().contains("URIs: http://yes/debian\n"));
        assert_eq!(backports("deb https://packages.example cloud-sdk-bookworm main\n"), None);
        let trixie = "Types: deb\nURIs: http://t/debian\nSuites: trixie\n";
        let source = super::source(trixie, &["trixie", "trixie-backports"]).unwrap();
        assert!(source.contains("URIs: http://t/debian\nSuites: trixie trixie-backports\n"));
    }
}
