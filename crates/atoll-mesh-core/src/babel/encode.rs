//! Building packets.

use super::{
    FLAG_PREFIX, FLAG_ROUTER_ID, FLAG_UNICAST, GrantBytes, HEADER_BYTES, INFINITY, MAGIC, Prefix, RouterId,
    SeqnoRequest, Tlv, Update, VERSION, ae, router_id_of, sub, tlv,
};
use crate::limits::CONTROL_BYTES_MAX;

/// Collects messages into one packet of at most [`CONTROL_BYTES_MAX`] bytes.
#[derive(Debug, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
    /// What the reader takes for granted by now (RFC 8966 section 4.5).
    state: State,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    router_id: Option<RouterId>,
    prefix: Option<Prefix>,
}

impl Default for Writer {
    fn default() -> Self {
        Self { bytes: vec![MAGIC, VERSION, 0, 0], state: State::default() }
    }
}

impl Writer {
    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() <= HEADER_BYTES
    }

    /// Appends a message; false, and no change, if it does not fit any more.
    pub fn push(&mut self, message: &Tlv) -> bool {
        let (length, state) = (self.bytes.len(), self.state);
        let is_whole = self.write(message);
        let fits = is_whole && self.bytes.len() <= CONTROL_BYTES_MAX;
        if !fits {
            self.bytes.truncate(length);
            self.state = state;
        }
        fits
    }

    /// The packet.
    pub fn finish(mut self) -> Vec<u8> {
        let body = u16::try_from(self.bytes.len() - HEADER_BYTES).unwrap_or(u16::MAX);
        self.bytes[2..HEADER_BYTES].copy_from_slice(&body.to_be_bytes());
        self.bytes
    }

    /// Whether all of it could be written: a TLV has at most 255 bytes.
    fn write(&mut self, message: &Tlv) -> bool {
        match message {
            Tlv::AckRequest(ask) => self.tlv(tlv::ACK_REQUEST, |out| {
                put(out, &[&[0, 0], &ask.opaque.to_be_bytes(), &ask.interval_cs.to_be_bytes()]);
                if let Some(batch) = ask.batch {
                    sub_tlv(out, sub::BATCH, &[&batch.generation.to_be_bytes(), &batch.number.to_be_bytes()]);
                }
            }),
            Tlv::Ack(ack) => self.tlv(tlv::ACK, |out| {
                put(out, &[&ack.opaque.to_be_bytes()]);
                if let Some(number) = ack.number {
                    sub_tlv(out, sub::BATCH, &[&number.to_be_bytes()]);
                }
            }),
            Tlv::Hello(hello) => self.tlv(tlv::HELLO, |out| {
                let flags = if hello.is_unicast { FLAG_UNICAST } else { 0 };
                put(out, &[&flags.to_be_bytes(), &hello.seqno.to_be_bytes(), &hello.interval_cs.to_be_bytes()]);
                if let Some(timestamp_us) = hello.timestamp_us {
                    sub_tlv(out, sub::TIMESTAMP, &[&timestamp_us.to_be_bytes()]);
                }
                if let Some(link) = hello.link {
                    let flags = u8::from(link.is_probe);
                    sub_tlv(out, sub::LINK, &[&[flags], &link.generation.to_be_bytes(), &[link.capacity]]);
                }
                if let Some(grant) = &hello.grant {
                    write_grant(out, grant);
                }
            }),
            Tlv::Ihu(ihu) => self.tlv(tlv::IHU, |out| {
                let address = ihu.address.map(|address| address.octets());
                let (encoding, address) = match &address {
                    None => (ae::WILDCARD, &[][..]),
                    Some([0xfe, 0x80, 0, 0, 0, 0, 0, 0, host @ ..]) => (ae::LINK_LOCAL, &host[..]),
                    Some(address) => (ae::IPV6, &address[..]),
                };
                let (rxcost, interval) = (ihu.rxcost.to_be_bytes(), ihu.interval_cs.to_be_bytes());
                put(out, &[&[encoding, 0], &rxcost, &interval, address]);
                if let Some(echo) = ihu.echo {
                    sub_tlv(out, sub::TIMESTAMP, &[&echo.origin_us.to_be_bytes(), &echo.receive_us.to_be_bytes()]);
                }
            }),
            Tlv::NextHop(address) => self.tlv(tlv::NEXT_HOP, |out| match &address.octets() {
                [0xfe, 0x80, 0, 0, 0, 0, 0, 0, host @ ..] => put(out, &[&[ae::LINK_LOCAL, 0], host]),
                address => put(out, &[&[ae::IPV6, 0], address]),
            }),
            Tlv::Update(update) => self.update(update),
            Tlv::RouteRequest(prefix) => self.tlv(tlv::ROUTE_REQUEST, |out| match prefix {
                None => put(out, &[&[ae::WILDCARD, 0]]),
                Some(prefix) => {
                    put(out, &[&[ae::IPV6, prefix.length()], &prefix.address().octets()[..prefix.octets()]]);
                }
            }),
            Tlv::SeqnoRequest(request) => self.seqno_request(request),
        }
    }

    fn update(&mut self, update: &Update) -> bool {
        let address = update.prefix.map(|prefix| prefix.address().octets());
        let mut flags = 0;
        if let Some(router_id) = update.router_id.filter(|_| update.metric != INFINITY) {
            if address.and_then(router_id_of) == Some(router_id) {
                flags |= FLAG_ROUTER_ID;
            } else if self.state.router_id != Some(router_id) {
                self.tlv(tlv::ROUTER_ID, |out| put(out, &[&[0, 0], &router_id]));
            }
            self.state.router_id = Some(router_id);
        }
        let mut head = [ae::WILDCARD, flags, 0, 0];
        let mut written = &[][..];
        if let (Some(prefix), Some(address)) = (update.prefix, &address) {
            let shared = self.state.prefix.map_or(0, |known| {
                let known = known.address().octets();
                known.iter().zip(address).take(prefix.octets()).take_while(|(a, b)| a == b).count()
            });
            let omitted = u8::try_from(shared).unwrap_or(0);
            head = [ae::IPV6, flags | FLAG_PREFIX, prefix.length(), omitted];
            written = &address[usize::from(omitted)..prefix.octets()];
            self.state.prefix = Some(prefix);
        }
        self.tlv(tlv::UPDATE, |out| {
            let (interval, seqno) = (update.interval_cs.to_be_bytes(), update.seqno.to_be_bytes());
            put(out, &[&head, &interval, &seqno, &update.metric.to_be_bytes(), written]);
            if let Some(origin) = &update.origin {
                let epoch = &origin.epoch.to_be_bytes()[2..];
                sub_tlv(out, sub::ORIGIN, &[&origin.node, epoch, &[u8::from(origin.is_retraction)], &origin.signature]);
            }
            if let Some(grant) = &update.grant {
                write_grant(out, grant);
            }
            if let Some(path) = update.path {
                sub_tlv(out, sub::PATH, &[&path.mtu.to_be_bytes(), &[path.hops]]);
            }
        })
    }

    fn seqno_request(&mut self, request: &SeqnoRequest) -> bool {
        self.tlv(tlv::SEQNO_REQUEST, |out| {
            let prefix = request.prefix;
            let address = prefix.address().octets();
            let seqno = request.seqno.to_be_bytes();
            put(out, &[&[ae::IPV6, prefix.length()], &seqno, &[request.hop_count, 0], &request.router_id]);
            put(out, &[&address[..prefix.octets()]]);
            if let Some(epoch) = request.epoch {
                sub_tlv(out, sub::EPOCH, &[&epoch.to_be_bytes()[2..]]);
            }
        })
    }

    fn tlv(&mut self, kind: u8, value: impl FnOnce(&mut Vec<u8>)) -> bool {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[kind, 0]);
        value(&mut self.bytes);
        let length = u8::try_from(self.bytes.len() - start - 2);
        self.bytes[start + 1] = length.unwrap_or(u8::MAX);
        length.is_ok()
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn write_grant(out: &mut Vec<u8>, grant: &GrantBytes) {
    sub_tlv(out, sub::GRANT, &[&grant.region, &grant.expiry_ms.to_be_bytes(), &grant.signature]);
}

fn sub_tlv(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&[kind, u8::try_from(length).unwrap_or(u8::MAX)]);
    put(out, parts);
}
