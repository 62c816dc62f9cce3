//! What the daemon makes when it starts, and what it takes away of that when it stops.

use std::{
    collections::BTreeSet,
    net::Ipv6Addr,
    time::{SystemTime, UNIX_EPOCH},
};

use atoll_base::{MeshAddr, NodeSecret, RegionPrefix};
use atoll_mesh_core::{Mesh, Settings, Time, Tuning, kem::AwsLcKem, limits::MTU, routing::Federation};
use atoll_os::{
    firewall::FirewallError,
    tun::{RegionRoutes, Tun, TunConfig, TunError},
};

use crate::{
    Config, MeshError,
    config::{Exit, Open, TunMode},
    exit::Part,
    guard::Guard,
};

/// The core, as it is configured.
pub(super) fn mesh(config: &Config, secret: NodeSecret, exit: Option<&Exit>, federation: Federation) -> Mesh {
    let settings = Settings {
        secret,
        region: config.region,
        seed: rand::random(),
        kem: Box::new(AwsLcKem),
        epoch: calendar_ms(),
        tuning: Tuning::default(),
    };
    let mut mesh = Mesh::new(settings, Time::ZERO);
    mesh.set_members(config.members.as_ref().map(|members| members.iter().copied().collect()), Time::ZERO);
    mesh.set_federation(federation, Time::ZERO);
    match exit {
        None => {}
        Some(Exit::Use(node)) => mesh.use_exit(Some(*node)),
        Some(Exit::Offer(offer)) => mesh.set_exit_offer(Some(offer.clone())),
    }
    mesh
}

/// The TUN device; none if there is to be none.
pub(super) async fn device(config: &Config, network: MeshAddr) -> Result<Option<Tun>, MeshError> {
    if config.tun == TunMode::None {
        return Ok(None);
    }
    let tun = Tun::create(TunConfig {
        name: config.interface.clone(),
        mtu: MTU as u32,
        address: network.node(),
        network: network.network(),
        region: RegionPrefix::of(config.region).network(),
    });
    Ok(Some(tun.await?))
}

/// What there is around the device: the routes of other regions, the firewall of the own address, and what exits need.
pub(crate) struct Surroundings {
    routes: Option<RegionRoutes>,
    open: Open,
    guard: Option<Guard>,
    part: Part,
}

impl Surroundings {
    /// Makes them for the device of `routes`, before anything comes out of it; nothing without one.
    pub(super) async fn start(
        routes: Option<RegionRoutes>,
        (open, exit): (Open, Option<&Exit>),
        network: MeshAddr,
        others: &BTreeSet<Ipv6Addr>,
    ) -> Result<Self, MeshError> {
        let Some(mut routes) = routes else { return Ok(Self { routes, open, guard: None, part: Part::None }) };
        routes.set(others).await?;
        let link = routes.link().to_owned();
        let guard = Guard::start(&link, open.clone()).await.map_err(MeshError::Firewall)?;
        match Part::start(exit, &link, network).await {
            Ok(part) => Ok(Self { routes: Some(routes), open, guard, part }),
            Err(error) => {
                if let Some(guard) = guard {
                    guard.stop().await;
                }
                Err(error)
            }
        }
    }

    /// Opens this, and nothing else, of the machine itself. After an error all is as before.
    pub(crate) async fn set_open(&mut self, open: Open) -> Result<(), FirewallError> {
        if let Some(routes) = self.routes.as_ref().filter(|_| self.open != open) {
            self.guard = Guard::start(routes.link(), open.clone()).await?;
            self.open = open;
        }
        Ok(())
    }

    /// What is open of the machine itself.
    pub(crate) const fn open(&self) -> &Open {
        &self.open
    }

    /// Routes these networks of other regions, and no others, to the device.
    pub(crate) async fn set_regions(&mut self, others: &BTreeSet<Ipv6Addr>) -> Result<(), TunError> {
        match &mut self.routes {
            Some(routes) => routes.set(others).await,
            None => Ok(()),
        }
    }

    /// Removes them, after the last packet came out of the device.
    pub(crate) async fn stop(self) {
        self.part.stop().await;
        if let Some(guard) = self.guard {
            guard.stop().await;
        }
    }
}

fn calendar_ms() -> u64 {
    // A clock before 1970 counts as zero; neighbours then tell what number is needed.
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}
