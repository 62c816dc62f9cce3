//! Control messages between neighbours: a sequence of TLVs (type, length, value), as in Babel (RFC 8966 section 4.3).
//! They only ever travel sealed, within a link's data frames. Unknown types are skipped, so that new ones can be added.

use atoll_base::{MeshAddr, NodeId};

use crate::{
    announce::Announcement,
    limits::{CONTROL_BYTES_MAX, METRIC_INFINITY},
    wire::{PAYLOAD_CONTROL, WireError},
};

const HELLO: u8 = 1;
const BATCH: u8 = 2;
const BATCH_ACK: u8 = 3;
const UPDATE: u8 = 4;
const RETRACT: u8 = 5;
const REQUEST: u8 = 6;

/// One control message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// "I am here."
    Hello(Hello),
    /// Head of a batch: the updates after it in the same frame are acknowledged together.
    Batch(Batch),
    /// The batch arrived.
    BatchAck(u32),
    /// A route through the sender.
    Update(Update),
    /// There is no route to this network through the sender any more.
    Retract(MeshAddr),
    /// Asks for an announcement at least this new.
    Request(Request),
}

/// A probe, or the answer to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Whether this asks for an answer, or is the answer to the probe with the same nonce.
    pub is_probe: bool,
    /// Tells probes apart.
    pub nonce: u32,
    /// Milliseconds since the sender last heard the receiver.
    pub heard_ms: u16,
    /// Round trip as the sender measured it, in microseconds; zero if it does not know.
    pub rtt_us: u32,
    /// Names the sender's table of routes over this link: a new number each time the link comes up, zero while it is
    /// down. A number that the receiver has not seen asks for all its routes.
    pub generation: u32,
}

/// Head of a batch of updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The receiver's generation for which it is meant; otherwise it is void.
    pub generation: u32,
    /// Grows: what comes after a higher number is stale.
    pub number: u32,
}

/// A route through the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update {
    /// What is announced, in the words of its origin.
    pub announcement: Announcement,
    /// Cost from the sender to the origin.
    pub metric: u32,
    /// Links from the sender to the origin.
    pub hops: u8,
}

/// Asks for a newer announcement (RFC 8966 section 3.8.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Of which network.
    pub network: MeshAddr,
    /// The smallest sequence number that helps.
    pub seqno: u64,
    /// How far the request may still travel.
    pub hop_limit: u8,
}

/// Collects control messages into payloads of link frames.
#[derive(Debug)]
pub struct ControlWriter {
    bytes: Vec<u8>,
}

impl Default for ControlWriter {
    fn default() -> Self {
        Self { bytes: vec![PAYLOAD_CONTROL] }
    }
}

impl ControlWriter {
    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() <= 1
    }

    /// Appends a message; false if it does not fit any more.
    pub fn push(&mut self, control: &Control) -> bool {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        let kind = self.value(control);
        let length = self.bytes.len() - start - 2;
        if self.bytes.len() > CONTROL_BYTES_MAX {
            self.bytes.truncate(start);
            return false;
        }
        self.bytes[start] = kind;
        self.bytes[start + 1] = u8::try_from(length).expect("every value is shorter than 256 bytes");
        true
    }

    /// The payload.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn value(&mut self, control: &Control) -> u8 {
        let bytes = &mut self.bytes;
        match control {
            Control::Hello(hello) => {
                bytes.push(u8::from(hello.is_probe));
                bytes.extend_from_slice(&hello.nonce.to_be_bytes());
                bytes.extend_from_slice(&hello.heard_ms.to_be_bytes());
                bytes.extend_from_slice(&hello.rtt_us.to_be_bytes());
                bytes.extend_from_slice(&hello.generation.to_be_bytes());
                HELLO
            }
            Control::Batch(batch) => {
                bytes.extend_from_slice(&batch.generation.to_be_bytes());
                bytes.extend_from_slice(&batch.number.to_be_bytes());
                BATCH
            }
            Control::BatchAck(number) => {
                bytes.extend_from_slice(&number.to_be_bytes());
                BATCH_ACK
            }
            Control::Update(update) => {
                bytes.extend_from_slice(&update.announcement.node.0);
                bytes.extend_from_slice(&update.announcement.seqno.to_be_bytes());
                bytes.extend_from_slice(&update.announcement.signature);
                bytes.extend_from_slice(&update.metric.to_be_bytes());
                bytes.push(update.hops);
                UPDATE
            }
            Control::Retract(network) => {
                bytes.extend_from_slice(&network.octets());
                RETRACT
            }
            Control::Request(request) => {
                bytes.extend_from_slice(&request.network.octets());
                bytes.extend_from_slice(&request.seqno.to_be_bytes());
                bytes.push(request.hop_limit);
                REQUEST
            }
        }
    }
}

/// Parses a control payload, its first byte included.
pub fn parse(payload: &[u8]) -> Result<Vec<Control>, WireError> {
    let (&PAYLOAD_CONTROL, mut rest) = payload.split_first().ok_or(WireError::Length)? else {
        return Err(WireError::Kind);
    };
    let mut controls = Vec::new();
    while let Some((&[kind, length], tail)) = rest.split_first_chunk::<2>() {
        let (value, tail) = tail.split_at_checked(usize::from(length)).ok_or(WireError::Length)?;
        if let Some(control) = one(kind, value)? {
            controls.push(control);
        }
        rest = tail;
    }
    if rest.is_empty() { Ok(controls) } else { Err(WireError::Length) }
}

fn one(kind: u8, value: &[u8]) -> Result<Option<Control>, WireError> {
    let mut reader = Reader(value);
    let control = match kind {
        HELLO => Control::Hello(Hello {
            is_probe: match u8::from_be_bytes(reader.take()?) {
                0 => false,
                1 => true,
                _ => return Err(WireError::Field),
            },
            nonce: u32::from_be_bytes(reader.take()?),
            heard_ms: u16::from_be_bytes(reader.take()?),
            rtt_us: u32::from_be_bytes(reader.take()?),
            generation: u32::from_be_bytes(reader.take()?),
        }),
        BATCH => Control::Batch(Batch {
            generation: u32::from_be_bytes(reader.take()?),
            number: u32::from_be_bytes(reader.take()?),
        }),
        BATCH_ACK => Control::BatchAck(u32::from_be_bytes(reader.take()?)),
        UPDATE => Control::Update(Update {
            announcement: Announcement {
                node: NodeId(reader.take()?),
                seqno: u64::from_be_bytes(reader.take()?),
                signature: reader.take()?,
            },
            metric: u32::from_be_bytes(reader.take()?),
            hops: u8::from_be_bytes(reader.take()?),
        }),
        RETRACT => Control::Retract(MeshAddr::from_octets(reader.take()?)),
        REQUEST => Control::Request(Request {
            network: MeshAddr::from_octets(reader.take()?),
            seqno: u64::from_be_bytes(reader.take()?),
            hop_limit: u8::from_be_bytes(reader.take()?),
        }),
        _ => return Ok(None),
    };
    if !reader.0.is_empty() {
        return Err(WireError::Length);
    }
    match control {
        Control::Update(update) if update.metric == METRIC_INFINITY => Err(WireError::Field),
        control => Ok(Some(control)),
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(WireError::Length)?;
        self.0 = tail;
        Ok(*head)
    }
}
