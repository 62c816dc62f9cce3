//! Where a node says that others may call its mesh: labels of its registration, `link=udp://203.0.113.7:4870`, one for each
//! place. They are hints for everybody, and come from whoever registered the node: what cannot be used is ignored.

use core::{fmt, net::IpAddr, str::FromStr};

use crate::{
    ids::{NodeId, domain_hash},
    invite::{InviteLink, LinkTransport},
    limits::{LABEL_BYTES_MAX, PUBLISHED_LINKS_MAX},
};

/// Key of these labels.
pub const KEY: &str = "link";
/// Port of links over TLS, if none is given: that of HTTPS.
const TLS_PORT: u16 = 443;

/// A place where a node can be called, as `udp://host:port` or `tls://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedLink(InviteLink);

/// A text that is no such place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is no place where others can call: {why}; write udp://host:port, such as udp://203.0.113.7:4870 or \
     udp://[2001:db8::7]:4870, or tls://host"
)]
pub struct PublishedLinkError {
    text: String,
    why: &'static str,
}

impl PublishedLink {
    /// Over what it runs.
    pub const fn transport(&self) -> LinkTransport {
        self.0.transport()
    }

    /// The label with which a node publishes it.
    pub fn label(&self) -> String {
        format!("{KEY}={self}")
    }
}

impl fmt::Display for PublishedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.0.transport() {
            LinkTransport::Udp => "udp",
            LinkTransport::Tls => "tls",
        };
        write!(f, "{scheme}://{}", self.0)
    }
}

impl FromStr for PublishedLink {
    type Err = PublishedLinkError;

    fn from_str(text: &str) -> Result<Self, PublishedLinkError> {
        let refuse = |why| PublishedLinkError { text: text.to_owned(), why };
        let (transport, rest) = match (text.strip_prefix("udp://"), text.strip_prefix("tls://")) {
            (Some(rest), _) => (LinkTransport::Udp, rest),
            (None, Some(rest)) => (LinkTransport::Tls, rest),
            (None, None) => return Err(refuse("it does not begin with udp:// or tls://")),
        };
        // A colon within brackets belongs to the address.
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or_else(|| refuse("the port is not a number from 1 to 65535"))?)
            }
            None if transport == LinkTransport::Tls => (rest, TLS_PORT),
            None => return Err(refuse("the port is missing")),
        };
        let host = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            Some(inner) => {
                let inner = inner.ok_or_else(|| refuse("the bracket is not closed"))?;
                IpAddr::V6(inner.parse().map_err(|_| refuse("it is not an IPv6 address"))?).to_string()
            }
            None if host.contains(':') => return Err(refuse("an IPv6 address needs brackets")),
            None => host.to_ascii_lowercase(),
        };
        if host.parse().is_ok_and(|ip| !is_callable(ip)) || host == "localhost" || host.ends_with(".localhost") {
            return Err(refuse("others reach nobody there, or not this node"));
        }
        let link =
            InviteLink::new(transport, &host, port).map_err(|_| refuse("it is neither an address nor a name"))?;
        let link = Self(link);
        if link.label().len() > LABEL_BYTES_MAX {
            return Err(refuse("it is longer than a label of the ledger may be"));
        }
        Ok(link)
    }
}

/// Whether a label is one of these, whatever it says.
pub fn is_link(label: &str) -> bool {
    label.split_once('=').is_some_and(|(key, _)| key == KEY)
}

/// Where a node with these labels can be called, in the order in which it prefers that, and how many of its labels of this
/// key cannot be used, or are too many.
pub fn links<'a>(labels: impl IntoIterator<Item = &'a String>) -> (Vec<PublishedLink>, usize) {
    let (mut links, mut ignored) = (Vec::new(), 0);
    for label in labels.into_iter().filter(|label| is_link(label)) {
        let text = &label[KEY.len() + 1..];
        match text.parse() {
            Ok(link) if links.len() < PUBLISHED_LINKS_MAX && !links.contains(&link) => links.push(link),
            _ => ignored += 1,
        }
    }
    (links, ignored)
}

/// Whether others can call an address: not their own machine, no group, and nothing that means something else on each
/// link (RFC 6890), or leads nowhere (RFC 6666). Private addresses can be: a region may have no others.
pub fn is_callable(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_local = match ip {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[..4] == [0x100, 0, 0, 0],
    };
    !is_local && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
}

/// How early `own` calls `other` among all that can be called, the lowest first: for each node another order, so that
/// many do not call the same few.
pub fn rank(own: NodeId, other: NodeId) -> u64 {
    let hash = domain_hash("atoll published link rank", &[&own.0, &other.0]);
    hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_others_can_call_is_read_and_written() {
        for (text, written) in [
            ("udp://203.0.113.7:4870", "udp://203.0.113.7:4870"),
            ("udp://[2001:DB8::7]:1", "udp://[2001:db8::7]:1"),
            ("tls://GW.Example.org", "tls://gw.example.org:443"),
            ("tls://[2001:db8::7]", "tls://[2001:db8::7]:443"),
            ("udp://10.0.0.1:65535", "udp://10.0.0.1:65535"),
        ] {
            let link: PublishedLink = text.parse().expect(text);
            assert_eq!(link.to_string(), written);
            assert_eq!(written.parse(), Ok(link.clone()));
            assert_eq!(links(&[link.label()]), (vec![link], 0));
        }
    }

    #[test]
    fn what_nobody_can_call_is_refused_with_a_reason() {
        let long = format!("udp://{}.example:1", ["a".repeat(60), "b".repeat(60)].join("."));
        for (text, why) in [
            ("203.0.113.7:4870", "udp://"),
            ("udp://203.0.113.7", "port is missing"),
            ("udp://203.0.113.7:0", "port is not"),
            ("udp://2001:db8::7:4870", "needs brackets"),
            ("udp://[2001:db8::7:4870", "not closed"),
            ("udp://[192.0.2.1]:1", "IPv6"),
            ("udp://a b:1", "neither"),
            ("udp://127.0.0.1:1", "others reach nobody"),
            ("udp://[::1]:1", "others reach nobody"),
            ("udp://[::ffff:127.0.0.1]:1", "others reach nobody"),
            ("udp://0.0.0.0:1", "others reach nobody"),
            ("udp://[::]:1", "others reach nobody"),
            ("udp://224.0.0.1:1", "others reach nobody"),
            ("udp://[ff02::1]:1", "others reach nobody"),
            ("udp://255.255.255.255:1", "others reach nobody"),
            ("udp://169.254.1.1:1", "others reach nobody"),
            ("udp://[fe80::1]:1", "others reach nobody"),
            ("udp://[100::1]:1", "others reach nobody"),
            ("tls://LocalHost", "others reach nobody"),
            ("tls://x.localhost", "others reach nobody"),
            (&long, "longer than a label"),
        ] {
            let error = text.parse::<PublishedLink>().expect_err(text).to_string();
            assert!(error.contains(why) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn bad_labels_and_too_many_are_ignored_and_counted() {
        let label = |number: usize| format!("link=udp://203.0.113.{number}:4870");
        let mut labels = vec!["zone=a".to_owned(), "link=".to_owned(), "linked=1".to_owned(), label(0), label(0)];
        labels.extend((1..=PUBLISHED_LINKS_MAX).map(label));
        let (found, ignored) = links(&labels);
        assert_eq!(found.iter().map(PublishedLink::label).collect::<Vec<_>>(), (0..4).map(label).collect::<Vec<_>>());
        assert_eq!(ignored, 3, "an empty one, one that is there twice, and one too many");
    }

    #[test]
    fn nodes_call_others_each_in_another_order() {
        let others: Vec<_> = (0..16).map(|other| NodeId([other; 32])).collect();
        let first = |own: u8| others.iter().min_by_key(|other| rank(NodeId([own; 32]), **other));
        let firsts: BTreeSet<_> = (100..200).map(first).collect();
        assert!(firsts.len() > 12, "{}", firsts.len());
    }
}
