//! `mpirun` over the hosts: it starts on the first one, and starts the others by a script in the place
//! of ssh.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::TempDir;

use super::network::{self, Network};
use crate::steps;

/// How long ranks may take to end by themselves when they are asked to.
const TO_END: Duration = Duration::from_secs(3);

/// OpenMPI between hosts: by TCP over their network alone. Ranks that wait give way to others, since
/// all share the cores of this machine.
const SETTINGS: [[&str; 2]; 9] = [
    ["plm", "rsh"],
    ["plm_rsh_no_tree_spawn", "1"],
    ["pml", "ob1"],
    ["btl", "tcp,self"],
    ["btl_tcp_if_include", "eth0"],
    ["oob_tcp_if_include", "eth0"],
    ["mpi_yield_when_idle", "1"],
    ["hwloc_base_binding_policy", "none"],
    ["orte_abort_on_non_zero_status", "1"],
];

/// A command on all hosts.
pub struct Launch {
    command: Command,
    /// Has files that the command reads.
    _folder: TempDir,
}

/// What a host is named while something runs on it, as other hosts have names of their own.
fn named(host: &str) -> String {
    format!("echo {host} > /proc/sys/kernel/hostname")
}

/// In the place of ssh: takes an address and a command line.
fn agent(hosts: &[String]) -> String {
    let mut text = String::from("#!/bin/sh\naddress=$1\nshift\ncase $address in\n");
    for (host, name) in hosts.iter().enumerate() {
        text += &format!("{}) name={name} ;;\n", network::address(host));
    }
    text += "*) echo \"no host has the address $address\" >&2; exit 1 ;;\nesac\n";
    text + "exec ip netns exec $name unshare --uts sh -c \
            \"echo $name > /proc/sys/kernel/hostname; $*\"\n"
}

/// Hosts with room for a rank each.
fn list(hosts: usize) -> String {
    (0..hosts).map(|host| format!("{} slots=1\n", network::address(host))).collect()
}

/// A rank of a program on each host.
pub fn mpirun(network: &Network, program: &[String]) -> Result<Launch> {
    let folder = tempfile::tempdir().context("no folder for the files of mpirun")?;
    let (script, file) = (folder.path().join("agent"), folder.path().join("hosts"));
    fs::write(&file, list(network.hosts().len()))?;
    fs::write(&script, agent(network.hosts()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;

    let first = &network.hosts()[0];
    let mut command = Command::new("ip");
    command.current_dir(steps::root()).stdin(Stdio::null());
    command.args(["netns", "exec", first, "unshare", "--uts", "sh", "-c"]);
    command.arg(format!("{}; exec \"$@\"", named(first))).arg("sh");
    command.args(options(&script, &file, network.hosts().len())).args(program);
    // Root alone makes namespaces, and OpenMPI does not like root.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    Ok(Launch { command, _folder: folder })
}

fn options(agent: &Path, hosts: &Path, ranks: usize) -> Vec<String> {
    let mut options = vec!["mpirun".to_owned(), "-n".to_owned(), ranks.to_string()];
    let mut set = |name: &str, value: &str| {
        options.extend(["--mca", name, value].map(str::to_owned));
    };
    SETTINGS.iter().for_each(|[name, value]| set(name, value));
    set("plm_rsh_agent", &agent.to_string_lossy());
    options.extend(["--hostfile".to_owned(), hosts.to_string_lossy().into_owned()]);
    options
}

impl Launch {
    /// Variables of all ranks, beside those of this process.
    pub fn envs<V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// Runs to the end, with the output of all ranks as it comes. Whether all succeeded.
    pub fn pass_on(mut self) -> Result<bool> {
        Ok(end(&mut start(&mut self.command)?)?.success())
    }

    /// Runs to the end. What the ranks wrote to standard output, where all succeeded.
    pub fn output(mut self) -> Result<String> {
        let mut child = start(self.command.stdout(Stdio::piped()))?;
        let mut pipe = child.stdout.take().context("standard output was just piped")?;
        let reader = thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        let status = end(&mut child)?;
        if !status.success() {
            bail!("{status} from mpirun");
        }
        Ok(reader.join().expect("no panic")?)
    }
}

fn start(command: &mut Command) -> Result<Child> {
    command.spawn().context("cannot start ip, of the package iproute2")
}

/// Whether a signal asked this program to end. From the first call on none ends it, so that it takes
/// its network down.
pub fn is_asked_to_end() -> bool {
    static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, asked.clone())
                .expect("a signal that may be caught");
        }
        asked
    });
    ASKED.load(Ordering::Relaxed)
}

/// Waits for the end; after a signal, not for long: the network is to be taken down.
fn end(child: &mut Child) -> Result<ExitStatus> {
    let mut since = None;
    loop {
        let status = child.try_wait()?;
        let is_asked = is_asked_to_end();
        if let Some(status) = status {
            ensure!(!is_asked, "stopped by a signal");
            return Ok(status);
        }
        if is_asked && since.get_or_insert_with(Instant::now).elapsed() > TO_END {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_knows_all_hosts() {
        let script = agent(&["a-0".to_owned(), "a-1".to_owned()]);
        assert!(
            script.contains("\n10.77.0.1) name=a-0 ;;\n10.77.0.2) name=a-1 ;;\n*) "),
            "{script}"
        );
        assert_eq!(list(2), "10.77.0.1 slots=1\n10.77.0.2 slots=1\n");
        let unknown = Command::new("sh").args(["-c", &script, "sh", "10.77.0.9", "true"]).output();
        let unknown = unknown.expect("sh");
        assert!(!unknown.status.success());
        assert_eq!(unknown.stderr, b"no host has the address 10.77.0.9\n");
    }

    #[test]
    fn ranks_are_connected_by_tcp_alone() {
        let options = options(Path::new("/a"), Path::new("/h"), 3).join(" ");
        assert!(options.starts_with("mpirun -n 3 --mca plm rsh "), "{options}");
        assert!(options.contains(" --mca btl tcp,self "), "{options}");
        assert!(options.ends_with(" --mca plm_rsh_agent /a --hostfile /h"), "{options}");
    }
}
