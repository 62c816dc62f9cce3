//! Direct links through NATs: what two nodes that talk over a relay tell each other, and whom they may then try.
//!
//! ```text
//!  offerer                                answerer          both
//!     │── offer (endpoints, token) ──────────▶│
//!     │◀───────── answer (endpoints, token) ──│
//!     │── start ─────────────────────────────▶│             in the session, through the relay
//!     │◀ ─ ─ probes to each endpoint, at once ─ ─ ▶│        28 bytes each, straight
//!     one probe was answered: the node with the lower network calls there
//! ```
//!
//! Nothing but these short probes goes to an endpoint that has not answered with the word that only the other node
//! knows, so nobody can be made to flood a third one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::{limits::CANDIDATES_MAX, stream::is_stream};

/// An endpoint: IPv6 address, or IPv4 address in its mapped form, and port.
pub const ENDPOINT_BYTES: usize = 18;
/// What a probe must carry to be the other node's.
pub type PunchToken = [u8; 8];
/// Kind, attempt, token, number of endpoints.
const MESSAGE_HEAD_BYTES: usize = 1 + 4 + 8 + 1;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PunchStep {
    /// Let us try a direct link; these are my endpoints.
    Offer,
    /// Yes; these are mine.
    Answer,
    /// Now.
    Start,
}

/// A message between the two ends of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PunchMessage {
    /// What it is about.
    pub step: PunchStep,
    /// Number of the attempt, chosen by who offers.
    pub attempt: u32,
    /// What probes to the sender of this must carry.
    pub token: PunchToken,
    /// Where the sender may be reached, at most [`CANDIDATES_MAX`]; only those that may be tried are parsed.
    pub endpoints: Vec<SocketAddr>,
}

impl PunchMessage {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let endpoints = &self.endpoints[..self.endpoints.len().min(CANDIDATES_MAX)];
        let step = match self.step {
            PunchStep::Offer => 1,
            PunchStep::Answer => 2,
            PunchStep::Start => 3,
        };
        let mut bytes = vec![step];
        bytes.extend_from_slice(&self.attempt.to_be_bytes());
        bytes.extend_from_slice(&self.token);
        bytes.push(u8::try_from(endpoints.len()).unwrap_or(0));
        bytes.extend(endpoints.iter().flat_map(|endpoint| endpoint_bytes(*endpoint)));
        bytes
    }

    /// Parses its bytes; nothing if they are not exactly of this form. Endpoints that nobody may be sent to are left out.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<MESSAGE_HEAD_BYTES>()?;
        let step = match head[0] {
            1 => PunchStep::Offer,
            2 => PunchStep::Answer,
            3 => PunchStep::Start,
            _ => return None,
        };
        let count = usize::from(head[MESSAGE_HEAD_BYTES - 1]);
        if count > CANDIDATES_MAX || rest.len() != count * ENDPOINT_BYTES {
            return None;
        }
        let mut token = [0; 8];
        token.copy_from_slice(&head[5..13]);
        let endpoints = rest.as_chunks::<ENDPOINT_BYTES>().0.iter().filter_map(parse_endpoint).collect();
        let attempt = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        Some(Self { step, attempt, token, endpoints })
    }
}

/// The bytes of an endpoint.
pub fn endpoint_bytes(endpoint: SocketAddr) -> [u8; ENDPOINT_BYTES] {
    let ip = match endpoint.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; ENDPOINT_BYTES];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&endpoint.port().to_be_bytes());
    bytes
}

/// The endpoint of these bytes; nothing if it cannot be that of one machine elsewhere.
pub fn parse_endpoint(bytes: &[u8; ENDPOINT_BYTES]) -> Option<SocketAddr> {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[..16]);
    let endpoint = SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), u16::from_be_bytes([bytes[16], bytes[17]]));
    is_candidate(endpoint).then_some(endpoint)
}

/// Whether an endpoint may be told to others, and tried: not this machine itself, no group, and nothing that means
/// something else on each link or, as the address of a connection, in each process.
pub fn is_candidate(endpoint: SocketAddr) -> bool {
    let ip = endpoint.ip();
    let is_local = match ip {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || is_stream(ip),
    };
    endpoint.port() != 0 && !is_local && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> SocketAddr {
        text.parse().expect("an endpoint")
    }

    #[test]
    fn messages_are_read_as_they_were_written_and_no_other_way() {
        let endpoints = vec![endpoint("192.0.2.7:4870"), endpoint("[2001:db8::1]:1"), endpoint("10.0.0.1:65535")];
        for step in [PunchStep::Offer, PunchStep::Answer, PunchStep::Start] {
            let message =
                PunchMessage { step, attempt: 0x0102_0304, token: *b"a token!", endpoints: endpoints.clone() };
            let bytes = message.to_bytes();
            assert_eq!(PunchMessage::parse(&bytes), Some(message));
            for cut in 0..bytes.len() {
                assert_eq!(PunchMessage::parse(&bytes[..cut]), None);
            }
            assert_eq!(PunchMessage::parse(&[&bytes[..], &[0]].concat()), None);
        }
        let many = vec![endpoints[0]; CANDIDATES_MAX + 1];
        let mut bytes = PunchMessage { step: PunchStep::Offer, attempt: 1, token: [0; 8], endpoints: many }.to_bytes();
        assert_eq!(PunchMessage::parse(&bytes).expect("cut to the bound").endpoints.len(), CANDIDATES_MAX);
        bytes[0] = 4;
        assert_eq!(PunchMessage::parse(&bytes), None);
    }

    #[test]
    fn nobody_is_sent_to_himself_or_to_a_group() {
        let wrong = [
            "127.0.0.1:4870",
            "0.0.0.0:4870",
            "0.1.2.3:4870",
            "224.0.0.1:4870",
            "255.255.255.255:4870",
            "169.254.0.1:4870",
            "192.0.2.7:0",
            "[::1]:4870",
            "[::]:4870",
            "[ff02::1]:4870",
            "[fe80::1]:4870",
            "[100::1]:4870",
        ];
        for text in wrong {
            assert_eq!(parse_endpoint(&endpoint_bytes(endpoint(text))), None, "{text}");
        }
    }
}
