//! `atoll mesh capture`: what goes through the own daemon, for eyes, programs, and Wireshark.

use std::{
    fs::File,
    io::Write as _,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use atoll_api::{
    UnixClient,
    mesh::{CaptureRequest, Captured, Way},
    pcap,
};
use atoll_base::NodeId;

use super::{
    super::{
        failure::{OrFail as _, fail},
        output,
        region::block_on,
    },
    Which, node_called, refusal,
};

/// `atoll mesh capture`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shown are the packets of this machine's own programs in clear, before they are sealed and after they are opened, and \
the frames on its links by kind, size and neighbour: what is relayed for others is sealed. It ends with ctrl-c.
  atoll mesh capture --write town.pcap     then: wireshark town.pcap")]
pub(crate) struct CaptureArgs {
    /// Only packets from or to this node, by the beginning of its id, and frames of this neighbour
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only packets from or to this address
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Ipv6Addr>,
    /// End after so many
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Only the packets of this machine, no frames
    #[arg(long, conflicts_with = "frames")]
    packets: bool,
    /// Only the frames on the links
    #[arg(long)]
    frames: bool,
    /// Write the packets to a file for Wireshark or tcpdump, and show nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["frames", "json"])]
    write: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Print JSON for programs, one line for each
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CaptureArgs, state: Option<&Path>) -> Result<ExitCode> {
    let status = args.which.status(state)?;
    let called = |text: &String| {
        node_called(&status, text).ok_or_else(|| {
            fail(
                format!("no reachable node, or more than one, has an id that begins with '{}'", output::clean(text)),
                "`atoll mesh routes` lists them; write more of the id",
            )
        })
    };
    let request = CaptureRequest {
        packets: !args.frames,
        frames: !args.packets && args.write.is_none(),
        address: args.address,
        node: args.node.as_ref().map(called).transpose()?,
    };
    let mut file = args.write.as_deref().map(Pcap::create).transpose()?;
    let socket = args.which.socket(state)?;
    block_on(async {
        let mut lines = UnixClient::new(&socket).lines("/v1/capture", &request).await.map_err(refusal)?;
        let (mut left, mut missed) = (args.count.unwrap_or(u64::MAX), 0);
        while left > 0 {
            let next = tokio::select! {
                next = lines.next::<Captured>() => next.map_err(refusal)?,
                _ = tokio::signal::ctrl_c() => None,
            };
            let Some(captured) = next else { break };
            match &captured {
                Captured::Missed { count } => missed += count,
                Captured::Packet { .. } | Captured::Frame { .. } => left -= 1,
            }
            match &mut file {
                Some(file) => file.add(&captured)?,
                None if args.json => output::print(&format!("{}\n", serde_json::to_string(&captured)?))?,
                None => output::print(&format!("{}\n", row(&captured)))?,
            }
        }
        if let Some(file) = file {
            let text = file.summary();
            let lost =
                if missed > 0 { format!("; {missed} were left out, as they came too fast") } else { String::new() };
            output::print(&format!("{text}{lost}\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A file for Wireshark. Each packet is in it at once, so that it can be looked at while it grows, and is whole however the
/// program ends.
struct Pcap {
    path: PathBuf,
    file: File,
    count: u64,
}

impl Pcap {
    fn create(path: &Path) -> Result<Self> {
        let create = || {
            let mut file = File::create(path)?;
            file.write_all(&pcap::header())?;
            Ok::<_, std::io::Error>(file)
        };
        let file =
            create().or_fail(|| format!("cannot write {}", path.display()), || "name a file in a folder of yours")?;
        Ok(Self { path: path.to_owned(), file, count: 0 })
    }

    fn add(&mut self, captured: &Captured) -> Result<()> {
        let Captured::Packet { at_us, bytes, .. } = captured else { return Ok(()) };
        let packet = hex::decode(bytes).or_fail(
            || "the daemon sent a packet that is none",
            || "it runs another version of atoll: start it again with this one",
        )?;
        self.file.write_all(&pcap::record(*at_us, &packet)).or_fail(
            || format!("cannot write {}", self.path.display()),
            || "make room on that disk, or name another file",
        )?;
        self.count += 1;
        Ok(())
    }

    fn summary(&self) -> String {
        format!("{} packets in {}", self.count, self.path.display())
    }
}

/// One line for what was captured.
fn row(captured: &Captured) -> String {
    let arrow = |way: &Way| match way {
        Way::In => "<-",
        Way::Out => "->",
    };
    let fate = |dropped: &Option<String>| {
        dropped.as_ref().map_or(String::new(), |why| format!("  DROPPED: {}", output::clean(why)))
    };
    match captured {
        Captured::Packet { at_us, way, bytes, dropped } => {
            let packet = hex::decode(bytes).unwrap_or_default();
            format!("{} {} packet {}{}", clock(*at_us), arrow(way), describe(&packet), fate(dropped))
        }
        Captured::Frame { at_us, way, kind, length, node, endpoint, relayed, dropped } => format!(
            "{} {} frame {} {length} bytes, {} at {endpoint}{}{}",
            clock(*at_us),
            arrow(way),
            output::clean(kind),
            node.map_or("nobody known".to_owned(), NodeId::short),
            if *relayed { ", relayed" } else { "" },
            fate(dropped),
        ),
        Captured::Missed { count } => format!("({count} were left out here, as they came too fast)"),
    }
}

/// Addresses, protocol, ports and length of an IPv6 packet.
fn describe(packet: &[u8]) -> String {
    let address = |at: usize| {
        let octets: Option<[u8; 16]> = packet.get(at..at + 16).and_then(|bytes| bytes.try_into().ok());
        octets.map(Ipv6Addr::from)
    };
    let (Some(source), Some(target)) = (address(8), address(24)) else {
        return format!("of {} bytes that is no IPv6", packet.len());
    };
    let port = |at: usize| packet.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let (protocol, has_ports) = match packet[6] {
        6 => ("TCP".to_owned(), true),
        17 => ("UDP".to_owned(), true),
        58 => (format!("ICMPv6 {}", packet.get(40).copied().unwrap_or(0)), false),
        44 => ("fragment".to_owned(), false),
        other => (format!("protocol {other}"), false),
    };
    let length = packet.len();
    if has_ports {
        format!("[{source}]:{} > [{target}]:{} {protocol} {length} bytes", port(40), port(42))
    } else {
        format!("{source} > {target} {protocol} {length} bytes")
    }
}

/// Time of day (UTC) with microseconds.
fn clock(at_us: u64) -> String {
    let seconds = at_us / 1_000_000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:06}", seconds / 3600, seconds / 60 % 60, seconds % 60, at_us % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_went_where() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        packet.extend_from_slice(&Ipv6Addr::LOCALHOST.octets());
        packet.extend_from_slice(&Ipv6Addr::UNSPECIFIED.octets());
        packet.extend_from_slice(&[0, 53, 1, 0, 0, 8, 0, 0]);
        let bytes = hex::encode(&packet);
        let at_us = 3_723_000_004;
        let shown = row(&Captured::Packet { at_us, way: Way::Out, bytes, dropped: Some("no_route".to_owned()) });
        assert_eq!(shown, "01:02:03.000004 -> packet [::1]:53 > [::]:256 UDP 48 bytes  DROPPED: no_route");
        assert_eq!(describe(&packet[..20]), "of 20 bytes that is no IPv6");
        let frame = Captured::Frame {
            at_us,
            way: Way::In,
            kind: "data".to_owned(),
            length: 130,
            node: None,
            endpoint: "192.0.2.7:4870".parse().expect("an endpoint"),
            relayed: true,
            dropped: None,
        };
        assert_eq!(row(&frame), "01:02:03.000004 <- frame data 130 bytes, nobody known at 192.0.2.7:4870, relayed");
    }
}
