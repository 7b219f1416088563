//! Several hosts on one machine: network namespaces with a rank of MPI each, on a network whose delay
//! and bandwidth are chosen.
//!
//! ```text
//! cargo xtask hosts --ranks 4 --delay 5ms --rate 100mbit -- target/release/examples/ranks
//! ```
//!
//! Linux alone, as root, with `ip`, `tc` (package iproute2) and OpenMPI. Of the kernel it takes network
//! namespaces, `tun`, `ifb`, `sch_tbf`, `sch_ingress`, `cls_u32` and `act_mirred`; not `netem`, which
//! kernels of small virtual machines lack: `tc` sets the bandwidth, and [`wire`] holds frames back.
//! Nothing outside of the namespaces is changed, and they go when the command ends, by Ctrl-C too.

pub mod check;
mod launch;
mod network;
mod rate;
mod wire;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;

pub use launch::mpirun;
pub use network::{Link, Network};
pub use rate::Rate;

#[derive(Args)]
pub struct Options {
    /// Number of hosts, with a rank each
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// How long a frame is on its way from one host to another, such as 50us or 5ms
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Bandwidth of a host in each direction, such as 100mbit or 1gbit; as much as this machine can
    /// carry where there is none
    #[arg(long)]
    rate: Option<Rate>,
    /// The program that each rank runs, and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let link = Link { delay: options.delay, rate: options.rate };
    ensure!((1..=network::MOST).contains(&options.ranks), "--ranks takes 1 to {}", network::MOST);
    let network = Network::new(options.ranks, link)?;
    println!("==> {network}");
    let success = mpirun(&network, &options.command)?.pass_on()?;
    for (host, carried) in network.carried().into_iter().enumerate() {
        println!("==> host {host} sent {carried}");
    }
    if !success {
        bail!("the ranks did not come to their end");
    }
    Ok(())
}
