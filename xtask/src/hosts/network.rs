//! Hosts that are network namespaces, and the network between them.

use std::fmt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tappers::{Interface, Tap};

use super::launch::is_asked_to_end;
use super::rate::Rate;
use super::wire::{self, Wire};

/// Most hosts of a network.
pub const MOST: usize = 64;
/// Longest packet: that of a cluster's network. Fewer of them cost this machine less.
pub const MTU: usize = 9_000;
/// What the names of namespaces begin with; a process and a host follow.
const NAME: &str = "evenkeel";
/// Bytes that wait at a bandwidth before any are lost: more than TCP sends ahead.
const QUEUE: u64 = 64 << 20;

/// How hosts are connected.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// From one host to another.
    pub delay: Duration,
    /// Of a host, in each direction; `None` for as much as there is.
    pub rate: Option<Rate>,
}

/// Namespaces that go when this is dropped, with all processes in them.
pub struct Network {
    link: Link,
    hosts: Vec<String>,
    wire: Wire,
}

/// Namespaces that were made so far.
struct Made(Vec<String>);

impl Drop for Made {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| remove(name));
    }
}

impl Network {
    pub fn new(hosts: usize, link: Link) -> Result<Self> {
        ensure!(!is_asked_to_end(), "stopped by a signal");
        remove_left();
        let mut made = Made(Vec::with_capacity(hosts));
        let mut devices = Vec::with_capacity(hosts);
        for host in 0..hosts {
            let name = format!("{NAME}-{}-{host}", std::process::id());
            run(&format!("ip netns add {name}"))?;
            made.0.push(name.clone());
            devices.push(connect(&name, host, link.rate)?);
        }
        let wire = Wire::new(devices, link.delay);
        Ok(Self { link, hosts: std::mem::take(&mut made.0), wire })
    }

    /// Namespaces in the order of hosts, each named as its host.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// What each host has sent.
    pub fn carried(&self) -> Vec<String> {
        let told = |(bytes, frames)| format!("{:.2} MB in {frames} frames", bytes as f64 / 1e6);
        self.wire.carried().into_iter().map(told).collect()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delay = humantime::format_duration(self.link.delay);
        write!(f, "{} hosts, {delay} from one to another, ", self.hosts.len())?;
        match self.link.rate {
            Some(rate) => write!(f, "{rate}/s in each direction"),
            None => write!(f, "no limit of bandwidth"),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.hosts.iter().for_each(|name| remove(name));
    }
}

/// The address of a host.
pub fn address(host: usize) -> String {
    format!("10.77.0.{}", host + 1)
}

/// Gives a host its device, and the bandwidth of it: what it sends waits in front of the device, what
/// it receives in front of another, to which it is sent first.
fn connect(name: &str, host: usize, rate: Option<Rate>) -> Result<Tap> {
    let device = format!("evk{}x{host}", std::process::id() % 100_000);
    let device_name = Interface::new(&device).context("a name of a device")?;
    let tap = Tap::new_named(device_name).context(
        "no device of its own for a host: this takes root, and of the kernel /dev/net/tun",
    )?;
    run(&format!("ip link set {device} netns {name} name eth0"))?;
    // Without the chatter of a network that configures itself.
    let ipv6 = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
    inside(name, &["sh", "-c", &format!("[ ! -e {ipv6} ] || echo 1 > {ipv6}")])?;
    run(&format!("ip -n {name} link set lo up"))?;
    let hardware = wire::address(host);
    run(&format!("ip -n {name} link set eth0 address {hardware} mtu {MTU} up"))?;
    run(&format!("ip -n {name} addr add {}/24 dev eth0", address(host)))?;
    let Some(rate) = rate else { return Ok(tap) };
    let limit = format!("root tbf rate {}bit burst {} limit {QUEUE}", rate.0, rate.burst());
    run(&format!("tc -n {name} qdisc add dev eth0 {limit}"))?;
    run(&format!("ip -n {name} link add in0 type ifb"))?;
    run(&format!("ip -n {name} link set in0 mtu {MTU} up"))?;
    run(&format!("tc -n {name} qdisc add dev in0 {limit}"))?;
    run(&format!("tc -n {name} qdisc add dev eth0 handle ffff: ingress"))?;
    run(&format!(
        "tc -n {name} filter add dev eth0 parent ffff: protocol all u32 match u32 0 0 \
         action mirred egress redirect dev in0"
    ))?;
    Ok(tap)
}

fn run(line: &str) -> Result<()> {
    finish(line, &mut words(line))
}

fn inside(name: &str, command: &[&str]) -> Result<()> {
    let mut in_namespace = words(&format!("ip netns exec {name}"));
    finish(&command.join(" "), in_namespace.args(command))
}

fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null());
    command
}

/// Runs in silence, and fails with what the program tells.
fn finish(line: &str, command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| {
        format!("cannot start `{line}`: it comes with the package iproute2, on Linux alone")
    })?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        let told = told.trim();
        bail!(
            "`{line}`: {told}; hosts take root, and of the kernel network namespaces, tun, ifb, \
             sch_tbf, sch_ingress, cls_u32 and act_mirred"
        );
    }
    Ok(())
}

/// Takes down a host: what runs in it first. One that is gone already is as it should be.
fn remove(name: &str) {
    let running = words(&format!("ip netns pids {name}")).output();
    let running = running.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    for process in running.unwrap_or_default().split_whitespace() {
        run(&format!("kill -9 {process}")).unwrap_or(());
    }
    if let Err(error) = run(&format!("ip netns del {name}")) {
        eprintln!("warning: {error:#}");
    }
    // What OpenMPI leaves behind of processes that were ended, where it is; it belongs to root.
    let session = std::env::temp_dir().join(format!("ompi.{name}.0"));
    std::fs::remove_dir_all(session).unwrap_or(());
}

/// Takes down what processes left that were killed.
fn remove_left() {
    let all = words("ip netns list").output();
    let all = all.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    for line in all.unwrap_or_default().lines() {
        let Some(name) = line.split_whitespace().next() else { continue };
        let is_left = process_of(name)
            .is_some_and(|process| !std::path::Path::new(&format!("/proc/{process}")).exists());
        if is_left {
            remove(name);
        }
    }
}

/// The process that made a namespace; `None` for one that is not ours.
fn process_of(name: &str) -> Option<u32> {
    let (process, host) = name.strip_prefix(NAME)?.strip_prefix('-')?.split_once('-')?;
    host.parse::<usize>().ok()?;
    process.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_ours_are_taken_down() {
        assert_eq!(process_of("evenkeel-1234-0"), Some(1234));
        for other in ["evenkeel", "evenkeel-1234", "evenkeel-a-0", "evenkeel-1-b", "other-1234-0"] {
            assert_eq!(process_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_fails_is_told_with_what_it_takes() {
        let error = run("ip link set no-such-device-here up").expect_err("no such device");
        let error = format!("{error:#}");
        assert!(error.starts_with("`ip link set no-such-device-here up`: "), "{error}");
        let error = run("no-such-program-here x").expect_err("no such program");
        assert!(error.to_string().contains("iproute2"), "{error:#}");
    }
}
