//! Signs a border grant: `grant AUTHORITY.key REGION NODE DAYS` prints what goes into `grant` of the node's
//! configuration.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use atoll_base::{NodeId, NodeSecret, RegionId};
use atoll_mesh_core::Grant;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [key, region, node, days] = arguments.as_slice() else {
        anyhow::bail!("usage: grant AUTHORITY.key REGION NODE DAYS");
    };
    let text = std::fs::read_to_string(key).with_context(|| format!("cannot read {key}"))?;
    let authority = NodeSecret::from_text(&text).with_context(|| format!("{key} is not a key"))?;
    let (region, node): (RegionId, NodeId) = (region.parse()?, node.parse()?);
    let days: u32 = days.parse().context("DAYS is a number of days")?;
    let end = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_secs(86_400) * days;
    let grant = Grant::sign(&authority, region, node, u64::try_from(end.as_millis())?);
    // The only output, so that it can be redirected.
    std::io::Write::write_all(&mut std::io::stdout(), format!("{}\n", grant.to_text()).as_bytes())?;
    Ok(())
}
