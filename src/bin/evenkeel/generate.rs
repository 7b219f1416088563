//! Not written yet.

use evenkeel::Result;
use evenkeel::run::Ending;

#[derive(Debug, clap::Args)]
pub struct Options {}

pub async fn run(_: Options) -> Result<Ending> {
    todo!()
}
