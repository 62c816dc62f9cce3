//! Founding a region: keys, charter, configuration. Done once, before anything starts.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256, U256};
use alloy_signer_local::PrivateKeySigner;
use anyhow::{Context as _, Result, bail};
use atoll_base::{
    Charter, NodeSecret,
    charter::{Allocation, CHARTER_VERSION, Currency, Prices, Timing},
};

use super::{
    layout::Layout,
    members::{Role, members},
    settings::Settings,
};
use crate::cli::failure::fail;

/// The smallest units of a coin: 18 decimals, as wallets expect.
const COIN: u128 = 1_000_000_000_000_000_000;
/// Coins of the founder's wallet.
const WALLET_COINS: u128 = 1_000_000;
/// Coins with which the provider's account registers its nodes.
const PROVIDER_COINS: u128 = 100;

/// Makes the region's files. Nothing is left that looks like a region unless all of it is there: `atoll.toml` is last.
pub(super) fn found(layout: &Layout, settings: &Settings) -> Result<Charter> {
    refuse_leftovers(layout)?;
    for dir in ["", "run", "logs", "members"] {
        make_dir(&layout.root().join(dir), 0o755)?;
    }
    make_dir(&layout.root().join("keys"), 0o700)?;
    let wallet = new_account(&layout.account_key("wallet"))?;
    let provider = new_account(&layout.account_key("provider"))?;
    let mut validators = Vec::new();
    for member in members(settings, false) {
        make_dir(&layout.member(&member.name), 0o700)?;
        let secret = NodeSecret::from_seed(rand::random());
        write_secret(&layout.identity(&member.name), &secret.to_text())?;
        if member.validator {
            validators.push(atoll_light::certificate::validator_entry(&member.name, &secret));
        }
    }
    validators.sort_by_key(|validator| validator.id);
    let charter = charter(settings, validators, wallet, provider)?;
    charter.check().context("the new charter is not valid")?;
    write_file(&layout.charter(), &charter_text(&charter)?, 0o644)?;
    write_file(&layout.settings(), &settings.to_text()?, 0o644)?;
    fs::File::open(layout.root()).and_then(|dir| dir.sync_all()).context("cannot make the new region durable")?;
    Ok(charter)
}

/// Reads the charter of a founded region.
pub(super) fn load_charter(layout: &Layout) -> Result<Charter> {
    let path = layout.charter();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let charter: Charter =
        toml::from_str(&text).with_context(|| format!("{} is not a valid charter", path.display()))?;
    charter.check().with_context(|| format!("{} cannot be used", path.display()))?;
    Ok(charter)
}

fn charter(
    settings: &Settings,
    validators: Vec<atoll_base::charter::Validator>,
    wallet: Address,
    provider: Address,
) -> Result<Charter> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("this machine's clock stands before 1970")?;
    let coins = |n: u128| U256::from(n * COIN);
    let mut allocations = vec![
        Allocation { account: wallet, amount: coins(WALLET_COINS) },
        Allocation { account: provider, amount: coins(PROVIDER_COINS) },
    ];
    allocations.sort_by_key(|allocation| allocation.account);
    Ok(Charter {
        version: CHARTER_VERSION,
        name: settings.region.name.clone(),
        // Beyond 2^32, where no public chain is registered, and below 2^53.
        chain_id: (1 << 32) + u64::from(rand::random::<u32>()),
        created_ms: u64::try_from(now.as_millis()).context("this machine's clock is beyond all bounds")?,
        currency: Currency { name: settings.region.currency.clone(), symbol: settings.region.symbol.clone() },
        prices: Prices {
            cpu_core_hour: U256::from(COIN / 100),
            memory_gib_hour: U256::from(COIN / 200),
            disk_gib_hour: U256::from(COIN / 10_000),
            gas: 1_000_000_000,
        },
        timing: Timing {
            block_min_ms: 50,
            block_idle_ms: 1_000,
            heartbeat_ms: 2_000,
            heartbeat_timeout_ms: 6_000,
            settle_ms: 10_000,
        },
        validators,
        allocations,
        treasury: wallet,
        closed: Some(settings.region.closed == Some(true)),
    })
}

fn charter_text(charter: &Charter) -> Result<String> {
    Ok(format!(
        "# The charter of the region. Its hash is the region id: changing anything here makes another region.\n\n{}",
        toml::to_string_pretty(charter)?
    ))
}

/// A charter without `atoll.toml` is what an interrupted founding leaves: harmless, unless a ledger already lived by it.
fn refuse_leftovers(layout: &Layout) -> Result<()> {
    let Ok(members) = fs::read_dir(layout.root().join("members")) else { return Ok(()) };
    for member in members {
        let member = member.context("cannot list the members")?;
        if member.path().join("ledger").exists() {
            return Err(fail(
                format!("{} holds a region's ledger, but no atoll.toml", layout.root().display()),
                "restore atoll.toml from a backup, or choose another directory with --state",
            ));
        }
    }
    Ok(())
}

fn new_account(path: &Path) -> Result<Address> {
    let key = B256::new(rand::random());
    let signer = PrivateKeySigner::from_bytes(&key).context("drew an impossible key, try again")?;
    write_secret(path, &format!("{}\n", alloy_primitives::hex::encode(key)))?;
    Ok(signer.address())
}

/// Makes a directory with its parents.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Writes a file that only its owner reads.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    write_file(path, text, 0o600)
}

fn write_file(path: &Path, text: &str, mode: u32) -> Result<()> {
    let write = || {
        // Removed first: the mode counts only for a new file.
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Refuses a rule in the settings that the region does not have: the charter cannot change any more.
pub(super) fn check_rules(layout: &Layout, settings: &Settings) -> Result<()> {
    let is_closed = load_charter(layout)?.is_closed();
    let (says, cure) = match (settings.region.closed, is_closed) {
        (Some(true), false) => {
            ("was founded open", "remove `closed` from [region]; `closed = true` in [mesh] closes this machine alone")
        }
        (Some(false), true) => ("was founded closed", "remove `closed` from [region]"),
        _ => return Ok(()),
    };
    Err(fail(format!("region '{}' {says}, and its charter does not change", settings.region.name), cure))
}

/// Refuses another number of members than the region was founded with: they have keys, and the validators stand in the
/// charter.
pub(super) fn check_size(layout: &Layout, settings: &Settings) -> Result<()> {
    let wanted: BTreeSet<String> = members(settings, false).into_iter().map(|member| member.name).collect();
    let Ok(dirs) = fs::read_dir(layout.root().join("members")) else { return Ok(()) };
    // Those of a founding that was interrupted never started.
    let names = dirs.filter_map(|dir| dir.ok()?.file_name().into_string().ok());
    let started: BTreeSet<String> =
        names.filter(|name| layout.daemon_config(name, Role::Mesh.name()).exists()).collect();
    if started.is_empty() || started == wanted {
        return Ok(());
    }
    let validators = load_charter(layout)?.validators.len();
    let is_single = started.contains(&settings.region.name);
    let nodes = if is_single { 1 } else { started.iter().filter(|name| name.starts_with('n')).count() };
    Err(fail(
        format!(
            "region '{}' was founded with {validators} validator(s) and {nodes} node(s) on this machine, and [size] says {} and {}",
            settings.region.name, settings.size.validators, settings.size.nodes
        ),
        format!("write `validators = {validators}` and `nodes = {nodes}` in [size] of its atoll.toml"),
    ))
}

/// Refuses to use a directory for a region that it does not belong to.
pub(super) fn check_same(layout: &Layout, settings: &Settings, name: Option<&str>) -> Result<()> {
    match name {
        Some(name) if name != settings.region.name => bail!(fail(
            format!("{} holds the region '{}', not '{name}'", layout.root().display(), settings.region.name),
            format!("use another directory with --state, or start '{}' without --name", settings.region.name),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::up::settings::{Ports, Size};

    #[test]
    fn a_founded_region_loads_and_keeps_its_secrets() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::find(Some(dir.path()), "home");
        let settings = Settings::new("home", Size { validators: 4, nodes: 2 }, Ports::default());
        let charter = found(&layout, &settings).expect("founds");
        assert_eq!(charter.validators.len(), 4);
        assert_eq!(load_charter(&layout).expect("loads").region_id(), charter.region_id());
        assert_eq!(Settings::load(&layout.settings()).expect("loads"), settings);
        for path in [layout.account_key("wallet"), layout.identity("v1")] {
            let mode = fs::metadata(path).expect("exists").permissions().mode();
            assert_eq!(mode & 0o077, 0);
        }
    }

    #[test]
    fn a_region_that_is_founded_closed_stays_so_and_needs_no_setting() {
        let founded = |closed| {
            let dir = tempfile::tempdir().expect("temporary directory");
            let layout = Layout::find(Some(dir.path()), "home");
            let mut settings = Settings::new("home", Size::default(), Ports::default());
            settings.region.closed = closed;
            let charter = found(&layout, &settings).expect("founds");
            assert_eq!(Settings::load(&layout.settings()).expect("loads"), settings);
            let allowed = [None, Some(false), Some(true)].map(|says| {
                settings.region.closed = says;
                check_rules(&layout, &settings).is_ok()
            });
            (charter.is_closed(), allowed)
        };
        assert_eq!(founded(None), (false, [true, true, false]));
        assert_eq!(founded(Some(false)), (false, [true, true, false]));
        assert_eq!(founded(Some(true)), (true, [true, false, true]));
    }

    #[test]
    fn a_region_keeps_its_size() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::find(Some(dir.path()), "lab");
        let size = |validators, nodes| Settings::new("lab", Size { validators, nodes }, Ports::default());
        // Interrupted, and then founded smaller.
        found(&layout, &size(4, 3)).expect("founds");
        fs::remove_file(layout.settings()).expect("removes");
        found(&layout, &size(4, 2)).expect("founds again");
        assert!(check_size(&layout, &size(4, 3)).is_ok(), "nothing has started yet");
        for member in members(&size(4, 2), false) {
            fs::write(layout.daemon_config(&member.name, "mesh"), "").expect("written");
        }
        assert!(check_size(&layout, &size(4, 2)).is_ok());
        for (validators, nodes) in [(4, 1), (4, 3), (1, 2), (5, 2), (1, 1)] {
            let error = check_size(&layout, &size(validators, nodes)).expect_err("another size").to_string();
            assert!(
                error.contains(&format!(
                    "4 validator(s) and 2 node(s) on this machine, and [size] says {validators} and {nodes}"
                )),
                "{error}"
            );
        }
    }

    #[test]
    fn an_interrupted_founding_is_repeated_but_a_ledger_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::find(Some(dir.path()), "home");
        let settings = Settings::new("home", Size::default(), Ports::default());
        found(&layout, &settings).expect("founds");
        fs::remove_file(layout.settings()).expect("removes");
        found(&layout, &settings).expect("founds again");
        fs::remove_file(layout.settings()).expect("removes");
        fs::create_dir(layout.daemon_data("home", "ledger")).expect("creates");
        assert!(found(&layout, &settings).expect_err("refuses").to_string().contains("no atoll.toml"));
    }
}
