//! Ways to break a path, and to mend it again.

use std::time::Instant;

use anyhow::Result;

use super::{Lab, Mesh, Wire};

/// What breaks on the path from one machine over its next hop, the relay, to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The cable between sender and relay is pulled.
    LinkDown,
    /// The first wire drops everything without a sign.
    FirstHop,
    /// The second wire drops everything without a sign.
    SecondHop,
    /// The relay's daemon gets SIGKILL.
    RelayKilled,
}

impl Cut {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LinkDown, Self::FirstHop, Self::SecondHop, Self::RelayKilled];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::LinkDown => "link down",
            Self::FirstHop => "silent drop, first hop",
            Self::SecondHop => "silent drop, second hop",
            Self::RelayKilled => "relay killed",
        }
    }

    /// Breaks the path of a mesh from `from` over `relay` to `target`; answers when.
    pub fn apply(self, mesh: &mut Mesh, from: usize, relay: usize, target: usize) -> Result<Instant> {
        match self {
            Self::RelayKilled => {
                let cut = Instant::now();
                mesh.nodes[relay].kill();
                Ok(cut)
            }
            Self::LinkDown | Self::FirstHop | Self::SecondHop => self.apply_to_wire(&mesh.lab, from, relay, target),
        }
    }

    /// Makes everything whole again.
    pub fn mend(self, mesh: &mut Mesh, from: usize, relay: usize, target: usize) -> Result<()> {
        match self {
            Self::RelayKilled => mesh.nodes[relay].restart(),
            Self::LinkDown | Self::FirstHop | Self::SecondHop => self.mend_wire(&mesh.lab, from, relay, target),
        }
    }

    /// Breaks the wire, which is all there is to do without a mesh; answers when.
    pub fn apply_to_wire(self, lab: &Lab, from: usize, relay: usize, target: usize) -> Result<Instant> {
        match self {
            Self::LinkDown => set_link(lab, from, relay, "down"),
            Self::FirstHop => drop_silently(lab, lab.wire(from, relay)?),
            Self::SecondHop => drop_silently(lab, lab.wire(relay, target)?),
            Self::RelayKilled => Ok(Instant::now()),
        }
    }

    /// Mends the wire.
    pub fn mend_wire(self, lab: &Lab, from: usize, relay: usize, target: usize) -> Result<()> {
        match self {
            Self::LinkDown => set_link(lab, from, relay, "up").map(drop),
            Self::FirstHop => pass_again(lab, lab.wire(from, relay)?),
            Self::SecondHop => pass_again(lab, lab.wire(relay, target)?),
            Self::RelayKilled => Ok(()),
        }
    }
}

/// At the relay's end: the sender sees its carrier go, as with a pulled cable.
fn set_link(lab: &Lab, from: usize, relay: usize, state: &str) -> Result<Instant> {
    let link = lab.wire(from, relay)?.interface(relay);
    let at = Instant::now();
    lab.host(relay).inside("ip", ["link", "set", &link, state])?;
    Ok(at)
}

/// Whatever comes in at either end is dropped: rules for what goes out would tell the sender (EPERM).
fn drop_silently(lab: &Lab, wire: &Wire) -> Result<Instant> {
    let at = Instant::now();
    for end in [wire.ends().0, wire.ends().1] {
        let rules = format!(
            "add table inet cut; add chain inet cut in {{ type filter hook prerouting priority -300; }}; add rule inet cut in iifname {} drop",
            wire.interface(end)
        );
        lab.host(end).inside("nft", [&rules])?;
    }
    Ok(at)
}

fn pass_again(lab: &Lab, wire: &Wire) -> Result<()> {
    for end in [wire.ends().0, wire.ends().1] {
        lab.host(end).inside("nft", ["delete table inet cut"])?;
    }
    Ok(())
}
