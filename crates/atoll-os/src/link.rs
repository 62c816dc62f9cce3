//! Links, addresses, routes and network sysctls of one network namespace, over rtnetlink.

pub mod detour;
pub mod learned;
mod nat64;

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use futures::TryStreamExt;
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        route::RouteMessage,
    },
};

use crate::{
    limits::LINK_NAME_BYTES_MAX,
    netns::{NetNs, NetnsError},
    tap,
};

/// A change to the network's configuration failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The name is not one that the kernel takes.
    #[error("'{0}' cannot be the name of a network link: use 1 to {LINK_NAME_BYTES_MAX} bytes without '/' and blanks")]
    Name(String),
    /// There is no such link.
    #[error("there is no network link '{0}': create it first")]
    Missing(String),
    /// The kernel refused.
    #[error("cannot {what}: {why}")]
    Kernel {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        why: String,
    },
    /// The connection to the kernel could not be made.
    #[error("cannot open a netlink socket: call this on a tokio runtime, as root")]
    Socket(#[source] io::Error),
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// A sysctl could not be read or written.
    #[error("cannot set the kernel parameter {path} to '{value}'")]
    Sysctl {
        /// Its path.
        path: String,
        /// What it should have become.
        value: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

const EEXIST: i32 = -nix::libc::EEXIST;
const ENOENT: i32 = -nix::libc::ENOENT;
const ENODEV: i32 = -nix::libc::ENODEV;
const ESRCH: i32 = -nix::libc::ESRCH;
const EADDRNOTAVAIL: i32 = -nix::libc::EADDRNOTAVAIL;

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to: the network address; `::` or `0.0.0.0` with length 0 is the default route.
    pub destination: IpAddr,
    /// How many bits of it count.
    pub prefix_len: u8,
    /// Next hop; none: the destination is on the link. It need not be in a connected subnet.
    pub via: Option<IpAddr>,
    /// The link.
    pub link: String,
    /// Which of this machine's addresses to send from.
    pub source: Option<IpAddr>,
}

impl Route {
    /// A route to a single address that is on the link.
    pub fn host(address: IpAddr, link: &str) -> Self {
        let prefix_len = if address.is_ipv4() { 32 } else { 128 };
        Self { destination: address, prefix_len, via: None, link: link.to_owned(), source: None }
    }

    /// The IPv6 default route.
    pub fn default_via(gateway: Ipv6Addr, link: &str) -> Self {
        Self {
            destination: Ipv6Addr::UNSPECIFIED.into(),
            prefix_len: 0,
            via: Some(gateway.into()),
            link: link.to_owned(),
            source: None,
        }
    }
}

/// The links of one network namespace. Cheap to clone; its connection ends with the last clone.
#[derive(Debug, Clone)]
pub struct Links {
    handle: Handle,
    namespace: Option<NetNs>,
}

impl Links {
    /// The links of the namespace in which this process runs. Must be called on a tokio runtime.
    pub fn here() -> Result<Self, LinkError> {
        Ok(Self { handle: connect()?, namespace: None })
    }

    /// The links of a named namespace. Must be called on a tokio runtime.
    pub fn of(namespace: &NetNs) -> Result<Self, LinkError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|e| LinkError::Socket(io::Error::other(e)))?;
        let handle = namespace.run(|| {
            let _entered = runtime.enter();
            connect()
        })??;
        Ok(Self { handle, namespace: Some(namespace.clone()) })
    }

    /// Index of a link, if there is one of this name.
    pub async fn index(&self, name: &str) -> Result<Option<u32>, LinkError> {
        Ok(self.message(name).await?.map(|message| message.header.index))
    }

    /// Names of all links.
    pub async fn names(&self) -> Result<Vec<String>, LinkError> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(kernel("list links"))?;
        let name = |message: LinkMessage| {
            message.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        };
        Ok(messages.into_iter().filter_map(name).collect())
    }

    /// Makes a pair of virtual Ethernet links: `name` here, `peer` in the namespace `there`. When `name` is here and
    /// `peer` is there, nothing changes; halves without their other half are replaced.
    pub async fn ensure_veth(&self, name: &str, there: &NetNs, peer: &str) -> Result<(), LinkError> {
        let (name, peer) = (link_name(name)?, link_name(peer)?);
        let other = Self::of(there)?;
        let is_here = self.index(name).await?.is_some();
        let is_there = other.index(peer).await?.is_some();
        if is_here && is_there {
            return Ok(());
        }
        self.remove(name).await?;
        other.remove(peer).await?;
        let file = fs::File::open(there.path()).map_err(LinkError::Socket)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&file);
        let peer_message = LinkMessageBuilder::<LinkUnspec>::new().name(peer.to_owned()).setns_by_fd(raw).build();
        let message = LinkMessageBuilder::<LinkVeth>::new(name, peer)
            .set_info_data(rtnetlink::packet_route::link::InfoData::Veth(
                rtnetlink::packet_route::link::InfoVeth::Peer(peer_message),
            ))
            .build();
        let what = || format!("create the link pair {name} and {peer} in {}", there.name());
        self.handle.link().add(message).execute().await.map_err(kernel_with(what))?;
        drop(file);
        Ok(())
    }

    /// Makes a bridge unless there is one.
    pub async fn ensure_bridge(&self, name: &str) -> Result<(), LinkError> {
        let name = link_name(name)?;
        if self.index(name).await?.is_some() {
            return Ok(());
        }
        let result = self.handle.link().add(LinkBridge::new(name).build()).execute().await;
        ignore(&[EEXIST], result).map_err(kernel_with(|| format!("create the bridge {name}")))
    }

    /// Makes a TAP link that outlives this process, unless there is a link of this name.
    pub async fn ensure_tap(&self, name: &str) -> Result<(), LinkError> {
        let name = link_name(name)?;
        if self.index(name).await?.is_some() {
            return Ok(());
        }
        self.inside(|| tap::create_persistent(name))?
            .map_err(|e| LinkError::Kernel { what: format!("create the TAP link {name}"), why: e.to_string() })
    }

    /// Makes `link` a port of `bridge`.
    pub async fn ensure_port(&self, link: &str, bridge: &str) -> Result<(), LinkError> {
        let (port, controller) = (self.require(link).await?, self.require(bridge).await?);
        let message = LinkUnspec::new_with_index(port).controller(controller).build();
        let what = || format!("make {link} a port of {bridge}");
        self.handle.link().change(message).execute().await.map_err(kernel_with(what))
    }

    /// Brings a link up.
    pub async fn ensure_up(&self, name: &str) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(self.require(name).await?).up().build();
        self.handle.link().change(message).execute().await.map_err(kernel_with(|| format!("bring {name} up")))
    }

    /// Takes a link down.
    pub async fn ensure_down(&self, name: &str) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(self.require(name).await?).down().build();
        self.handle.link().change(message).execute().await.map_err(kernel_with(|| format!("take {name} down")))
    }

    /// Whether a link is there and up.
    pub async fn is_up(&self, name: &str) -> Result<bool, LinkError> {
        Ok(self.message(name).await?.is_some_and(|message| message.header.flags.contains(LinkFlags::Up)))
    }

    /// The largest packet of a link, if there is one of this name. (`/sys/class/net` shows another namespace's links
    /// to a process that entered this one without a mount namespace of its own.)
    pub async fn mtu(&self, name: &str) -> Result<Option<u32>, LinkError> {
        let attributes = self.message(name).await?.map(|message| message.attributes).unwrap_or_default();
        Ok(attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(mtu),
            _ => None,
        }))
    }

    /// Sets the largest packet of a link.
    pub async fn ensure_mtu(&self, name: &str, mtu: u32) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(self.require(name).await?).mtu(mtu).build();
        let what = || format!("set the mtu of {name} to {mtu}");
        self.handle.link().change(message).execute().await.map_err(kernel_with(what))
    }

    /// Sets the largest super-packet that the kernel hands to a link, in bytes.
    pub async fn ensure_gso_max(&self, name: &str, bytes: u32) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(self.require(name).await?)
            .append_extra_attribute(LinkAttribute::GsoMaxSize(bytes))
            .build();
        let what = || format!("bound the super-packets of {name} to {bytes} bytes");
        self.handle.link().change(message).execute().await.map_err(kernel_with(what))
    }

    /// Removes a link if it is there.
    pub async fn remove(&self, name: &str) -> Result<(), LinkError> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        let result = self.handle.link().del(index).execute().await;
        ignore(&[ENODEV], result).map_err(kernel_with(|| format!("remove the link {name}")))
    }

    /// Gives a link an address. IPv6 addresses are usable at once (no duplicate address detection).
    pub async fn ensure_address(&self, name: &str, address: IpAddr, prefix_len: u8) -> Result<(), LinkError> {
        let index = self.require(name).await?;
        let mut request = self.handle.address().add(index, address, prefix_len);
        if address.is_ipv6() {
            let flags = rtnetlink::packet_route::address::AddressFlags::Nodad;
            request.message_mut().attributes.push(AddressAttribute::Flags(flags));
        }
        let what = || format!("give {name} the address {address}/{prefix_len}");
        ignore(&[EEXIST], request.execute().await).map_err(kernel_with(what))
    }

    /// Takes an address from a link if it is there.
    pub async fn remove_address(&self, name: &str, address: IpAddr, prefix_len: u8) -> Result<(), LinkError> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        let message = match address {
            IpAddr::V4(v4) => {
                AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(index).address(v4, prefix_len).build()
            }
            IpAddr::V6(v6) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(v6, prefix_len).build(),
        };
        let what = || format!("take the address {address}/{prefix_len} from {name}");
        let result = self.handle.address().del(message).execute().await;
        ignore(&[EADDRNOTAVAIL, ENODEV], result).map_err(kernel_with(what))
    }

    /// Makes a route, replacing one to the same destination.
    pub async fn ensure_route(&self, route: &Route) -> Result<(), LinkError> {
        let message = self.route_message(route, self.require(&route.link).await?)?;
        let what = || format!("route {}/{} to {}", route.destination, route.prefix_len, route.link);
        self.handle.route().add(message).replace().execute().await.map_err(kernel_with(what))
    }

    /// Removes a route if it is there.
    pub async fn remove_route(&self, route: &Route) -> Result<(), LinkError> {
        let Some(index) = self.index(&route.link).await? else { return Ok(()) };
        let what = || format!("remove the route {}/{} from {}", route.destination, route.prefix_len, route.link);
        let result = self.handle.route().del(self.route_message(route, index)?).execute().await;
        ignore(&[ESRCH, ENOENT], result).map_err(kernel_with(what))
    }

    /// Sets a network sysctl of this namespace; `key` is the path below `/proc/sys/net`, such as
    /// `ipv6/conf/eth0/accept_dad`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), LinkError> {
        self.inside(|| write_sysctl(key, value))?
    }

    /// Lets the namespace forward IPv6. Links that took their address from router advertisements keep doing so
    /// (the kernel would stop that on a router unless `accept_ra` is 2).
    pub fn enable_forwarding(&self) -> Result<(), LinkError> {
        self.inside(|| {
            let conf = Path::new(SYSCTL_ROOT).join("ipv6/conf");
            let names = fs::read_dir(&conf).into_iter().flatten().flatten();
            for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
                let listens = fs::read_to_string(conf.join(&name).join("accept_ra")).is_ok_and(|v| v.trim() == "1");
                let forwards = fs::read_to_string(conf.join(&name).join("forwarding")).is_ok_and(|v| v.trim() == "1");
                if listens && !forwards && name != "all" {
                    write_sysctl(&format!("ipv6/conf/{name}/accept_ra"), "2")?;
                }
            }
            write_sysctl("ipv6/conf/all/disable_ipv6", "0")?;
            write_sysctl("ipv6/conf/all/forwarding", "1")
        })?
    }

    async fn message(&self, name: &str) -> Result<Option<LinkMessage>, LinkError> {
        let name = link_name(name)?;
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(message) => Ok(message),
            Err(error) if code(&error).is_some_and(|c| [ENODEV, ENOENT].contains(&c)) => Ok(None),
            Err(error) => Err(kernel_with(|| format!("look for the link {name}"))(error)),
        }
    }

    async fn require(&self, name: &str) -> Result<u32, LinkError> {
        self.index(name).await?.ok_or_else(|| LinkError::Missing(name.to_owned()))
    }

    fn route_message(&self, route: &Route, index: u32) -> Result<RouteMessage, LinkError> {
        let refuse = |e: &dyn core::fmt::Display| LinkError::Kernel {
            what: format!("build the route {}/{}", route.destination, route.prefix_len),
            why: e.to_string(),
        };
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(route.destination, route.prefix_len)
            .map_err(|e| refuse(&e))?
            .output_interface(index);
        if let Some(via) = route.via {
            builder = builder.gateway(via).map_err(|e| refuse(&e))?.onlink();
        }
        if let Some(source) = route.source {
            builder = builder.pref_source(source).map_err(|e| refuse(&e))?;
        }
        Ok(builder.build())
    }

    /// Runs `work` where `/proc/sys/net` shows this namespace.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LinkError> {
        match &self.namespace {
            Some(namespace) => Ok(namespace.run(work)?),
            None => Ok(work()),
        }
    }
}

const SYSCTL_ROOT: &str = "/proc/sys/net";

fn write_sysctl(key: &str, value: &str) -> Result<(), LinkError> {
    let path = Path::new(SYSCTL_ROOT).join(key);
    fs::write(&path, value).map_err(|source| LinkError::Sysctl {
        path: path.display().to_string(),
        value: value.to_owned(),
        source,
    })
}

fn connect() -> Result<Handle, LinkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(LinkError::Socket)?;
    tokio::spawn(connection);
    Ok(handle)
}

fn link_name(name: &str) -> Result<&str, LinkError> {
    let fits = !name.is_empty() && name.len() <= LINK_NAME_BYTES_MAX && name != "." && name != "..";
    let plain = name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if fits && plain { Ok(name) } else { Err(LinkError::Name(name.to_owned())) }
}

fn code(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code()),
        _ => None,
    }
}

/// Success also when the kernel answered with one of these codes: what was wanted is already so.
fn ignore(codes: &[i32], result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if code(&error).is_some_and(|c| codes.contains(&c)) => Ok(()),
        other => other,
    }
}

fn kernel(what: &'static str) -> impl Fn(rtnetlink::Error) -> LinkError {
    kernel_with(move || what.to_owned())
}

fn kernel_with(what: impl Fn() -> String) -> impl Fn(rtnetlink::Error) -> LinkError {
    move |error| {
        let why = match &error {
            rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
            other => other.to_string(),
        };
        LinkError::Kernel { what: what(), why }
    }
}
