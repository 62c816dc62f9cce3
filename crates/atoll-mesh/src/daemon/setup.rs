//! What the daemon makes when it starts, and what it takes away of that when it stops.

use std::{
    net::Ipv6Addr,
    time::{SystemTime, UNIX_EPOCH},
};

use atoll_base::{MeshAddr, NodeSecret, RegionPrefix};
use atoll_mesh_core::{Mesh, Settings, Time, Tuning, kem::AwsLcKem, limits::MTU, routing::Federation};
use atoll_os::tun::{Tun, TunConfig};

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

/// The TUN device, also for the networks of other regions; none if there is to be none.
pub(super) async fn device(config: &Config, network: MeshAddr, others: &[Ipv6Addr]) -> Result<Option<Tun>, MeshError> {
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
    let tun = tun.await?;
    tun.route_regions(others).await?;
    Ok(Some(tun))
}

/// What there is around the device: the firewall of the own address, and what exits need.
pub(super) struct Surroundings {
    guard: Option<Guard>,
    part: Part,
}

impl Surroundings {
    /// Makes them for the device `link`, before anything comes out of it; nothing without one.
    pub(super) async fn start(
        link: Option<&str>,
        open: Open,
        exit: Option<&Exit>,
        network: MeshAddr,
    ) -> Result<Self, MeshError> {
        let Some(link) = link else { return Ok(Self { guard: None, part: Part::None }) };
        let guard = Guard::start(link, open).await.map_err(MeshError::Firewall)?;
        match Part::start(exit, link, network).await {
            Ok(part) => Ok(Self { guard, part }),
            Err(error) => {
                if let Some(guard) = guard {
                    guard.stop().await;
                }
                Err(error)
            }
        }
    }

    /// Removes them, after the last packet came out of the device.
    pub(super) async fn stop(self) {
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
