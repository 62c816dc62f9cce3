//! Invites: one line of text with all that a new machine needs to join a region, `atoll-invite:…`.
//!
//! An invite names the region and a few links into it. It is no secret and gives no right: in a closed region the members
//! decide who gets links. The format is in `docs/spec/mesh.md`.

use core::{fmt, net::IpAddr, str::FromStr};

use crate::{
    ids::{RegionId, domain_hash},
    limits::{HOST_BYTES_MAX, INVITE_LINKS_MAX, INVITE_TEXT_BYTES_MAX},
};

const SCHEME: &str = "atoll-invite:";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// All that a new machine needs to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    region: RegionId,
    links: Vec<InviteLink>,
}

/// A node of the region that can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteLink {
    transport: LinkTransport,
    host: String,
    port: u16,
}

/// Over what a link runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkTransport {
    /// UDP, the usual one.
    Udp,
    /// TLS over TCP, where UDP is blocked.
    Tls,
}

/// A text that is no invite, or one that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Something else altogether.
    #[error("not an invite: it begins with '{SCHEME}'")]
    Scheme,
    /// Longer than any invite.
    #[error("the invite is longer than {INVITE_TEXT_BYTES_MAX} characters: is there other text behind it?")]
    TooLong,
    /// A character that no invite has.
    #[error("'{character}' cannot be part of an invite (character {at}): copy it again, whole")]
    Character {
        /// The character.
        character: char,
        /// Its place in the text, from 1.
        at: usize,
    },
    /// The end is missing.
    #[error("the invite is cut off: copy it again, whole")]
    Truncated,
    /// Something was altered on the way.
    #[error("the invite was damaged on its way (its checksum does not fit): copy it again, whole")]
    Checksum,
    /// Made by a newer Atoll.
    #[error("the invite is of version {0}, this program knows version {VERSION}: update it")]
    Version(u8),
    /// A link over something that this version does not know.
    #[error("link {link} of the invite uses transport {transport}, which this program does not know: update it")]
    Transport {
        /// Number of the link, from 1.
        link: usize,
        /// What it names.
        transport: u8,
    },
    /// More behind the last link.
    #[error("the invite has {0} bytes too many")]
    Trailing(usize),
    /// Too many links.
    #[error("an invite has at most {INVITE_LINKS_MAX} links, not {0}: leave some out")]
    TooManyLinks(usize),
    /// A host that is neither address nor name.
    #[error("'{0}' is neither an IP address nor a DNS name in lower case: a link needs one")]
    Host(String),
    /// No port.
    #[error("port 0 of '{0}' cannot be called: name the port on which the node listens")]
    Port(String),
}

impl Invite {
    /// An invite into a region.
    pub fn new(region: RegionId, links: Vec<InviteLink>) -> Result<Self, InviteError> {
        if links.len() > INVITE_LINKS_MAX {
            return Err(InviteError::TooManyLinks(links.len()));
        }
        Ok(Self { region, links })
    }

    /// The region that it leads to.
    pub const fn region(&self) -> RegionId {
        self.region
    }

    /// Whom to call.
    pub fn links(&self) -> &[InviteLink] {
        &self.links
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.region.0);
        // Both lengths are within their bounds since the links were made.
        bytes.push(self.links.len() as u8);
        for link in &self.links {
            bytes.push(link.transport.number());
            bytes.extend_from_slice(&link.port.to_be_bytes());
            bytes.push(link.host.len() as u8);
            bytes.extend_from_slice(link.host.as_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Self, InviteError> {
        // The checksum is that of every version, so that a mistyped invite is not taken for a newer one.
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(InviteError::Truncated)?;
        if checksum(body) != *sum {
            return Err(InviteError::Checksum);
        }
        if let Some(version) = body.first().filter(|version| **version != VERSION) {
            return Err(InviteError::Version(*version));
        }
        let (head, mut rest) = body.split_first_chunk::<34>().ok_or(InviteError::Truncated)?;
        let mut region = [0; 32];
        region.copy_from_slice(&head[1..33]);
        let count = usize::from(head[33]);
        if count > INVITE_LINKS_MAX {
            return Err(InviteError::TooManyLinks(count));
        }
        let mut links = Vec::with_capacity(count);
        for link in 1..=count {
            let ([transport, high, low, length], tail) = rest.split_first_chunk::<4>().ok_or(InviteError::Truncated)?;
            let (host, tail) = tail.split_at_checked(usize::from(*length)).ok_or(InviteError::Truncated)?;
            let host = String::from_utf8_lossy(host);
            let transport =
                LinkTransport::parse(*transport).ok_or(InviteError::Transport { link, transport: *transport })?;
            links.push(InviteLink::new(transport, &host, u16::from_be_bytes([*high, *low]))?);
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(InviteError::Trailing(rest.len()));
        }
        Self::new(RegionId(region), links)
    }
}

impl InviteLink {
    /// A link to a host, an IP address or DNS name.
    pub fn new(transport: LinkTransport, host: &str, port: u16) -> Result<Self, InviteError> {
        // One text for each address, so that an invite has one form.
        let is_address = host.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() == host);
        if !is_address && !is_host_name(host) {
            return Err(InviteError::Host(host.to_owned()));
        }
        if port == 0 {
            return Err(InviteError::Port(host.to_owned()));
        }
        Ok(Self { transport, host: host.to_owned(), port })
    }

    /// Over what it runs.
    pub const fn transport(&self) -> LinkTransport {
        self.transport
    }

    /// IP address or DNS name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// As in a list of peers: `host:port`, with brackets around an IPv6 address.
impl fmt::Display for InviteLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl LinkTransport {
    const fn number(self) -> u8 {
        match self {
            Self::Udp => 0,
            Self::Tls => 1,
        }
    }

    const fn parse(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Udp),
            1 => Some(Self::Tls),
            _ => None,
        }
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        let (mut bits, mut count) = (0u32, 0);
        for byte in self.to_bytes() {
            bits = bits << 8 | u32::from(byte);
            count += 8;
            while count >= 5 {
                count -= 5;
                f.write_str(digit(bits >> count))?;
            }
        }
        if count > 0 { f.write_str(digit(bits << (5 - count))) } else { Ok(()) }
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    /// Upper case and white space (a line that a mail program broke) are forgiven.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        if text.len() > INVITE_TEXT_BYTES_MAX {
            return Err(InviteError::TooLong);
        }
        let mut rest = text.chars().enumerate().filter(|(_, character)| !character.is_ascii_whitespace());
        if SCHEME.chars().any(|expected| rest.next().is_none_or(|(_, c)| c.to_ascii_lowercase() != expected)) {
            return Err(InviteError::Scheme);
        }
        let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
        for (at, character) in rest {
            let digit = value(character).ok_or(InviteError::Character { character, at: at + 1 })?;
            bits = (bits << 5 | digit) & 0xfff;
            count += 5;
            if count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
            }
        }
        // Five bits or more left over are a digit too many, and those that are left are zero.
        if count >= 5 || bits & ((1 << count) - 1) != 0 {
            return Err(InviteError::Truncated);
        }
        Self::parse(&bytes)
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&domain_hash("atoll invite", &[body])[..CHECKSUM_BYTES]);
    sum
}

fn digit(bits: u32) -> &'static str {
    let at = (bits & 31) as usize;
    core::str::from_utf8(&ALPHABET[at..=at]).unwrap_or_default()
}

fn value(character: char) -> Option<u32> {
    match character.to_ascii_lowercase() {
        letter @ 'a'..='z' => Some(letter as u32 - 'a' as u32),
        number @ '2'..='7' => Some(number as u32 - '2' as u32 + 26),
        _ => None,
    }
}

/// A DNS name in lower case (RFC 1123 section 2.1), without a dot at its end. The last label is not all digits, or it
/// would be a bad IPv4 address.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    };
    name.len() <= HOST_BYTES_MAX
        && name.split('.').all(is_label)
        && name.rsplit('.').next().is_some_and(|last| !last.bytes().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
