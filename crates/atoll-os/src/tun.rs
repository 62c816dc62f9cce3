//! The mesh's TUN device: raw IPv6 packets of this machine, with its address and routes; at an exit also of IPv4.
//!
//! Each packet comes with a [`VnetHeader`]: the device takes part in segmentation and checksum offload, so one read may
//! give, and one write may take, a super-packet of up to 64 KiB.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::{self, IoSlice},
    net::Ipv6Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::libc;
use rtnetlink::{RouteMessageBuilder, packet_route::route::RouteType};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    limits::LINK_NAME_BYTES_MAX,
    link::{LinkError, Links, Route},
};

const CLONE_DEVICE: &str = "/dev/net/tun";

/// Bytes of a [`VnetHeader`].
pub const VNET_HEADER_BYTES: usize = 10;
/// Largest super-packet that the kernel is asked to hand over: with the mesh's headers on each of its parts it still
/// fits one datagram of UDP segmentation offload.
const SUPER_PACKET_BYTES_MAX: u32 = 58_000;

/// Of which transport the parts of a super-packet are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segmented {
    /// TCP over IPv6.
    Tcp,
    /// TCP over IPv4.
    Tcp4,
    /// UDP.
    Udp,
}

/// What the kernel says of a packet, or is told of it (`struct virtio_net_hdr`, VIRTIO 1.2 section 5.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// Where the checksum's coverage starts and where, from there, its field lies: it holds the sum over the pseudo
    /// header only. Nothing if the checksum is complete.
    pub partial_checksum: Option<(u16, u16)>,
    /// Transport and payload bytes of the packets for which it stands, if more than one.
    pub segments: Option<(Segmented, u16)>,
    /// Bytes of all headers, for a super-packet.
    pub headers_bytes: u16,
}

impl VnetHeader {
    const NEEDS_CHECKSUM: u8 = 1;
    const GSO_TCP4: u8 = 1;
    const GSO_TCP6: u8 = 4;
    const GSO_UDP: u8 = 5;
    const GSO_ECN: u8 = 0x80;

    /// Reads it; nothing if the packet is segmented in a way that was not agreed on.
    pub fn parse(bytes: &[u8; VNET_HEADER_BYTES]) -> Option<Self> {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let segments = match bytes[1] & !Self::GSO_ECN {
            0 => None,
            Self::GSO_TCP4 => Some((Segmented::Tcp4, number(4))),
            Self::GSO_TCP6 => Some((Segmented::Tcp, number(4))),
            Self::GSO_UDP => Some((Segmented::Udp, number(4))),
            _ => return None,
        };
        let partial_checksum = (bytes[0] & Self::NEEDS_CHECKSUM != 0).then_some((number(6), number(8)));
        Some(Self { partial_checksum, segments, headers_bytes: number(2) })
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; VNET_HEADER_BYTES] {
        let mut bytes = [0; VNET_HEADER_BYTES];
        if let Some((start, offset)) = self.partial_checksum {
            bytes[0] = Self::NEEDS_CHECKSUM;
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
            bytes[8..].copy_from_slice(&offset.to_ne_bytes());
        }
        if let Some((transport, segment_bytes)) = self.segments {
            bytes[1] = match transport {
                Segmented::Tcp4 => Self::GSO_TCP4,
                Segmented::Tcp => Self::GSO_TCP6,
                Segmented::Udp => Self::GSO_UDP,
            };
            bytes[4..6].copy_from_slice(&segment_bytes.to_ne_bytes());
        }
        bytes[2..4].copy_from_slice(&self.headers_bytes.to_ne_bytes());
        bytes
    }
}

/// A TUN device that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel has no TUN support loaded.
    #[error(
        "{CLONE_DEVICE} does not exist: load the kernel module with `modprobe tun`, or give it to this container; \
         or set `tun = \"none\"`, to pass on packets of others without a network interface"
    )]
    NoDriver,
    /// Not allowed.
    #[error(
        "not allowed to create the network interface '{name}': run as root, or with the capability CAP_NET_ADMIN, or in \
         a user namespace (`unshare -Urn`); or set `tun = \"none\"`, to pass on packets of others without an interface"
    )]
    NotAllowed {
        /// Name of the interface.
        name: String,
    },
    /// Somebody else has it.
    #[error(
        "the network interface '{name}' is in use by another program: stop that, or set another `interface` in the \
         configuration"
    )]
    Busy {
        /// Name of the interface.
        name: String,
    },
    /// There is an interface of this name, and it is no TUN device.
    #[error(
        "there is another network interface '{name}' already: set another `interface` in the configuration, or remove \
         that one with `ip link delete {name}`"
    )]
    Taken {
        /// Name of the interface.
        name: String,
    },
    /// The name cannot be one.
    #[error(
        "'{name}' cannot be the name of a network interface: `interface` has 1 to {LINK_NAME_BYTES_MAX} bytes, \
         letters, digits, '-', '_' and '.'"
    )]
    Name {
        /// What was written.
        name: String,
    },
    /// Another answer of the kernel.
    #[error("cannot create the network interface '{name}'")]
    Create {
        /// Name of the interface.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It is there, but could not be set up.
    #[error("cannot set up the network interface")]
    Configure(#[from] LinkError),
    /// The route that keeps the node's own unused addresses from leaving could not be made.
    #[error("cannot make the network {0}/112 unreachable: {1}")]
    Unreachable(Ipv6Addr, String),
}

/// What a TUN device should be.
#[derive(Debug, Clone)]
pub struct TunConfig {
    /// Name of the interface.
    pub name: String,
    /// Largest packet.
    pub mtu: u32,
    /// The node's own address.
    pub address: Ipv6Addr,
    /// The node's network, a /112. What of it has no more specific route is unreachable, and never goes to the device.
    pub network: Ipv6Addr,
    /// The region's network, a /48, which is routed to the device.
    pub region: Ipv6Addr,
}

/// A TUN device that is up. It vanishes, with its address and the route to the region, when this is dropped.
#[derive(Debug)]
pub struct Tun {
    fd: AsyncFd<OwnedFd>,
    config: TunConfig,
    takes_udp_segments: bool,
}

impl Tun {
    /// Creates the device in the calling process' network namespace, and brings it up. Must be called on a tokio runtime.
    pub async fn create(config: TunConfig) -> Result<Self, TunError> {
        let name = &config.name;
        // The kernel takes other bytes, too, but replaces some (`%d`), and files of that name cannot be written.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let fits =
            (1..=LINK_NAME_BYTES_MAX).contains(&name.len()) && !matches!(name.as_str(), "." | ".." | "all" | "default");
        if !fits || !name.bytes().all(is_plain) {
            return Err(TunError::Name { name: name.clone() });
        }
        let fd = open(name).map_err(|source| describe(name, source))?;
        let takes_udp_segments = offload(&fd).map_err(|source| TunError::Create { name: name.clone(), source })?;
        // Only to be read: the kernel would also tell after each packet written that the next one may come.
        // SAFETY: the descriptor is owned by the `AsyncFd`, which never replaces or closes it before it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let fd = fd.map_err(|e| TunError::Create { name: name.clone(), source: e.into() })?;
        let links = Links::here()?;
        // No link-local address: the kernel would send router solicitations and reports into the mesh.
        links.set_sysctl(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
        links.set_sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
        links.ensure_mtu(name, config.mtu).await?;
        links.ensure_gso_max(name, SUPER_PACKET_BYTES_MAX).await?;
        links.ensure_up(name).await?;
        links.ensure_address(name, config.address.into(), 128).await?;
        links.ensure_route(&region_route(&config, config.region)).await?;
        change_unreachable(config.network, Change::Ensure).await?;
        Ok(Self { fd, config, takes_udp_segments })
    }

    /// The routes of other regions to the device: none yet.
    pub fn region_routes(&self) -> RegionRoutes {
        RegionRoutes { config: self.config.clone(), regions: BTreeSet::new() }
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Waits until there is a packet to read, or an error.
    pub async fn readable(&self) -> io::Result<()> {
        // Readiness is cleared by `try_read` when it finds nothing.
        self.fd.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Whether super-packets of UDP may be written (Linux 6.2 and later).
    pub const fn takes_udp_segments(&self) -> bool {
        self.takes_udp_segments
    }

    /// Reads a [`VnetHeader`] and one packet; `WouldBlock` if there is none.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fd.try_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd.as_fd(), buffer)?))
    }

    /// The same when nothing was heard of the device: there may be a packet of which the runtime will hear only later.
    pub fn try_read_unasked(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(self.fd.get_ref().as_fd(), buffer)?)
    }

    /// Writes one packet in pieces, the first of which is its [`VnetHeader`]; `WouldBlock` if the kernel cannot take it
    /// now.
    pub fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(nix::sys::uio::writev(self.fd.get_ref().as_fd(), pieces)?)
    }

    /// Takes away what does not vanish with the device, then the device.
    pub async fn remove(self) -> Result<(), TunError> {
        change_unreachable(self.config.network, Change::Remove).await
    }
}

/// The networks of other regions, a /48 each, that are routed to a TUN device too. The routes vanish with it.
#[derive(Debug)]
pub struct RegionRoutes {
    config: TunConfig,
    regions: BTreeSet<Ipv6Addr>,
}

impl RegionRoutes {
    /// Name of the device.
    pub fn link(&self) -> &str {
        &self.config.name
    }

    /// Makes these networks, and no others, those that are routed. After an error it can be called again.
    pub async fn set(&mut self, regions: &BTreeSet<Ipv6Addr>) -> Result<(), TunError> {
        let links = Links::here()?;
        for region in self.regions.difference(regions).copied().collect::<Vec<_>>() {
            links.remove_route(&region_route(&self.config, region)).await?;
            self.regions.remove(&region);
        }
        for region in regions.difference(&self.regions).copied().collect::<Vec<_>>() {
            links.ensure_route(&region_route(&self.config, region)).await?;
            self.regions.insert(region);
        }
        Ok(())
    }
}

/// Index of a network interface of this namespace; nothing if there is none of this name.
pub fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

fn region_route(config: &TunConfig, region: Ipv6Addr) -> Route {
    Route {
        destination: region.into(),
        prefix_len: 48,
        via: None,
        link: config.name.clone(),
        source: Some(config.address.into()),
    }
}

enum Change {
    Ensure,
    Remove,
}

async fn change_unreachable(network: Ipv6Addr, change: Change) -> Result<(), TunError> {
    let failed = |why: &dyn core::fmt::Display| TunError::Unreachable(network, why.to_string());
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| failed(&e))?;
    let connection = tokio::spawn(connection);
    let route =
        RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(network, 112).kind(RouteType::Unreachable).build();
    let result = match change {
        Change::Ensure => handle.route().add(route).replace().execute().await,
        Change::Remove => handle.route().del(route).execute().await,
    };
    connection.abort();
    match result {
        Err(rtnetlink::Error::NetlinkError(e)) if matches!(change, Change::Remove) && e.raw_code() == -libc::ESRCH => {
            Ok(())
        }
        result => result.map_err(|e| failed(&e)),
    }
}

fn open(name: &str) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open(CLONE_DEVICE)?;
    // SAFETY: an `ifreq` is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    // The flags fit the kernel's short: IFF_TUN is 1, IFF_NO_PI 0x1000, IFF_VNET_HDR 0x4000.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open for the duration of the call and TUNSETIFF reads and writes one `ifreq`.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = nix::fcntl::OFlag::from_bits_retain(nix::fcntl::fcntl(&device, nix::fcntl::FcntlArg::F_GETFL)?);
    nix::fcntl::fcntl(&device, nix::fcntl::FcntlArg::F_SETFL(flags | nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(device.into())
}

/// Agrees on offloads with the kernel; whether super-packets of UDP are among them.
fn offload(device: &OwnedFd) -> io::Result<bool> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    for (flags, takes_udp_segments) in [(tcp | udp, true), (tcp, false)] {
        // SAFETY: the descriptor is open for the duration of the call, whose argument is a number and no pointer.
        if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags)) } >= 0 {
            return Ok(takes_udp_segments);
        }
    }
    Err(io::Error::last_os_error())
}

fn describe(name: &str, source: io::Error) -> TunError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDriver,
        Some(libc::EPERM | libc::EACCES) => TunError::NotAllowed { name },
        Some(libc::EBUSY) => TunError::Busy { name },
        Some(libc::EINVAL) if interface_index(&name).is_some() => TunError::Taken { name },
        _ => TunError::Create { name, source },
    }
}
