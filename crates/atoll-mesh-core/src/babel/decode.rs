//! Taking packets apart.

use std::net::Ipv6Addr;

use super::{
    Ack, AckRequest, BabelError, Batch, Echo, FLAG_PREFIX, FLAG_ROUTER_ID, FLAG_UNICAST, GrantBytes, HEADER_BYTES,
    Hello, INFINITY, Ihu, LinkState, MAGIC, Origin, Path, Prefix, RouterId, SeqnoRequest, Tlv, Update, VERSION, ae,
    router_id_of, sub, tlv,
};
use crate::limits::TLVS_MAX;

/// Takes a packet apart. What follows the body (a trailer, RFC 8966 section 4.2) is ignored.
pub fn decode(packet: &[u8]) -> Result<Vec<Tlv>, BabelError> {
    let (header, rest) = packet.split_first_chunk::<HEADER_BYTES>().ok_or(BabelError::Length)?;
    let [MAGIC, VERSION, high, low] = *header else { return Err(BabelError::Kind) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let mut body = Reader(rest.get(..length).ok_or(BabelError::Length)?);
    let mut parser = Parser::default();
    let mut messages = Vec::new();
    let mut count = 0;
    while let Some(kind) = body.next() {
        if kind == tlv::PAD_1 {
            continue;
        }
        count += 1;
        if count > TLVS_MAX {
            return Err(BabelError::TooMany);
        }
        let value = body.counted()?;
        messages.extend(parser.tlv(kind, value)?);
    }
    Ok(messages)
}

/// What earlier TLVs of a packet establish for later ones (RFC 8966 section 4.5).
#[derive(Default)]
struct Parser {
    router_id: Option<RouterId>,
    /// The prefix that the next one may abbreviate to.
    ipv6: Option<[u8; 16]>,
    /// The same for IPv4, which is read only to keep the state.
    ipv4: Option<[u8; 16]>,
}

impl Parser {
    fn tlv(&mut self, kind: u8, mut value: Reader<'_>) -> Result<Option<Tlv>, BabelError> {
        match kind {
            tlv::ACK_REQUEST => ack_request(value),
            tlv::ACK => ack(value),
            tlv::HELLO => hello(value),
            tlv::IHU => ihu(value),
            tlv::ROUTER_ID => {
                let _reserved: [u8; 2] = value.take()?;
                let router_id = value.take()?;
                if router_id == [0; 8] || router_id == [0xff; 8] {
                    return Err(BabelError::Field);
                }
                // Even if the TLV itself is to be ignored (section 4.4).
                self.router_id = Some(router_id);
                Ok(None)
            }
            tlv::NEXT_HOP => {
                let [encoding, _reserved] = value.take()?;
                let address = address(encoding, &mut value)?;
                let is_ours = subs(value, |_, _| Ok(false))?;
                Ok(address.filter(|_| is_ours).map(Tlv::NextHop))
            }
            tlv::UPDATE => self.update(value),
            tlv::ROUTE_REQUEST => {
                let [encoding, length] = value.take()?;
                let prefix = match encoding {
                    ae::WILDCARD if length == 0 => None,
                    ae::IPV6 => Some(prefix(length, &mut value)?),
                    ae::WILDCARD => return Err(BabelError::Field),
                    _ => return Ok(None),
                };
                let is_ours = subs(value, |_, _| Ok(false))?;
                Ok(is_ours.then_some(Tlv::RouteRequest(prefix)))
            }
            tlv::SEQNO_REQUEST => seqno_request(value),
            _ => Ok(None),
        }
    }

    fn update(&mut self, mut value: Reader<'_>) -> Result<Option<Tlv>, BabelError> {
        let [encoding, flags, length, omitted] = value.take()?;
        let interval_cs = value.u16()?;
        let seqno = value.u16()?;
        let metric = value.u16()?;
        let address = match encoding {
            ae::WILDCARD if length == 0 && omitted == 0 && metric == INFINITY => None,
            ae::WILDCARD => return Err(BabelError::Field),
            ae::IPV6 => Some(abbreviated(length, omitted, 128, self.ipv6, &mut value)?),
            ae::IPV4 | ae::IPV4_VIA_IPV6 => Some(abbreviated(length, omitted, 32, self.ipv4, &mut value)?),
            // Nothing that is known here can follow from it.
            _ => return Ok(None),
        };
        let is_ipv6 = encoding == ae::IPV6;
        if let Some(address) = address {
            if flags & FLAG_PREFIX != 0 {
                *(if is_ipv6 { &mut self.ipv6 } else { &mut self.ipv4 }) = Some(address);
            }
            if flags & FLAG_ROUTER_ID != 0 {
                let named = if is_ipv6 { router_id_of(address) } else { router_id_of_ipv4(address) };
                self.router_id = Some(named.ok_or(BabelError::Field)?);
            }
        }
        let router_id = self.router_id.filter(|_| metric != INFINITY);
        if interval_cs == 0 || (router_id.is_none() && metric != INFINITY) {
            return Err(BabelError::Field);
        }
        let prefix = address.and_then(|address| Prefix::new(Ipv6Addr::from(address), length));
        let mut update =
            Update { prefix, router_id, interval_cs, seqno, metric, origin: None, grant: None, path: None };
        let is_ours = subs(value, |kind, value| update_sub(&mut update, kind, value))?;
        let is_ours = is_ours && (is_ipv6 || encoding == ae::WILDCARD);
        Ok(is_ours.then(|| Tlv::Update(Box::new(update))))
    }
}

fn update_sub(update: &mut Update, kind: u8, value: &mut Reader<'_>) -> Result<bool, BabelError> {
    match kind {
        sub::ORIGIN => {
            update.origin = Some(Origin {
                node: value.take()?,
                epoch: value.u48()?,
                is_retraction: value.bit()?,
                signature: value.take()?,
            });
        }
        sub::GRANT => update.grant = Some(grant(value)?),
        sub::PATH => update.path = Some(Path { mtu: value.u16()?, hops: value.byte()? }),
        _ => return Ok(false),
    }
    value.end()
}

fn ack_request(mut value: Reader<'_>) -> Result<Option<Tlv>, BabelError> {
    let _reserved: [u8; 2] = value.take()?;
    let mut ask = AckRequest { opaque: value.u16()?, interval_cs: value.u16()?, batch: None };
    if ask.interval_cs == 0 {
        return Err(BabelError::Field);
    }
    let is_ours = subs(value, |kind, value| {
        if kind != sub::BATCH {
            return Ok(false);
        }
        ask.batch = Some(Batch { generation: value.u32()?, number: value.u32()? });
        value.end()
    })?;
    Ok(is_ours.then_some(Tlv::AckRequest(ask)))
}

fn ack(mut value: Reader<'_>) -> Result<Option<Tlv>, BabelError> {
    let mut ack = Ack { opaque: value.u16()?, number: None };
    let is_ours = subs(value, |kind, value| {
        if kind != sub::BATCH {
            return Ok(false);
        }
        ack.number = Some(value.u32()?);
        value.end()
    })?;
    Ok(is_ours.then_some(Tlv::Ack(ack)))
}

fn hello(mut value: Reader<'_>) -> Result<Option<Tlv>, BabelError> {
    let is_unicast = value.u16()? & FLAG_UNICAST != 0;
    let (seqno, interval_cs) = (value.u16()?, value.u16()?);
    let mut hello = Hello { is_unicast, seqno, interval_cs, timestamp_us: None, link: None, grant: None };
    let is_ours = subs(value, |kind, value| match kind {
        // May grow at its end in later versions of its RFC.
        sub::TIMESTAMP => {
            hello.timestamp_us = Some(value.u32()?);
            Ok(true)
        }
        sub::LINK => {
            hello.link = Some(LinkState { is_probe: value.bit()?, generation: value.u32()?, capacity: value.byte()? });
            value.end()
        }
        sub::GRANT => {
            hello.grant = Some(grant(value)?);
            value.end()
        }
        _ => Ok(false),
    })?;
    Ok(is_ours.then_some(Tlv::Hello(hello)))
}

fn grant(value: &mut Reader<'_>) -> Result<GrantBytes, BabelError> {
    Ok(GrantBytes { region: value.take()?, expiry_ms: value.u64()?, signature: value.take()? })
}

fn ihu(mut value: Reader<'_>) -> Result<Option<Tlv>, BabelError> {
    let [encoding, _reserved] = value.take()?;
    let (rxcost, interval_cs) = (value.u16()?, value.u16()?);
    if interval_cs == 0 {
        return Err(BabelError::Field);
    }
    let address = match encoding {
        ae::WILDCARD => None,
        _ => match address(encoding, &mut value)? {
            // An IPv4 address: not for us.
            None => return Ok(None),
            some => some,
        },
    };
    let mut ihu = Ihu { address, rxcost, interval_cs, echo: None };
    let is_ours = subs(value, |kind, value| {
        if kind != sub::TIMESTAMP {
            return Ok(false);
        }
        ihu.echo = Some(Echo { origin_us: value.u32()?, receive_us: value.u32()? });
        Ok(true)
    })?;
    Ok(is_ours.then_some(Tlv::Ihu(ihu)))
}

fn seqno_request(mut value: Reader<'_>) -> Result<Option<Tlv>, BabelError> {
    let [encoding, length] = value.take()?;
    let seqno = value.u16()?;
    let [hop_count, _reserved] = value.take()?;
    let router_id = value.take()?;
    if hop_count == 0 || encoding == ae::WILDCARD {
        return Err(BabelError::Field);
    }
    if encoding != ae::IPV6 {
        return Ok(None);
    }
    let prefix = prefix(length, &mut value)?;
    let mut request = SeqnoRequest { prefix, router_id, seqno, epoch: None, hop_count };
    let is_ours = subs(value, |kind, value| {
        if kind != sub::EPOCH {
            return Ok(false);
        }
        request.epoch = Some(value.u48()?);
        value.end()
    })?;
    Ok(is_ours.then_some(Tlv::SeqnoRequest(request)))
}

/// Reads sub-TLVs to the end; `known` takes one, or says that it does not know it. False if the TLV is to be ignored
/// because one is mandatory and not known.
fn subs(
    mut value: Reader<'_>,
    mut known: impl FnMut(u8, &mut Reader<'_>) -> Result<bool, BabelError>,
) -> Result<bool, BabelError> {
    let mut is_ours = true;
    while let Some(kind) = value.next() {
        if kind == sub::PAD_1 {
            continue;
        }
        let mut inner = value.counted()?;
        let is_known = known(kind, &mut inner)?;
        is_ours &= is_known || kind & sub::MANDATORY == 0;
    }
    Ok(is_ours)
}

/// An address on its own; nothing if it is not IPv6.
fn address(encoding: u8, value: &mut Reader<'_>) -> Result<Option<Ipv6Addr>, BabelError> {
    match encoding {
        ae::IPV4 => {
            let _ipv4: [u8; 4] = value.take()?;
            Ok(None)
        }
        ae::IPV6 => Ok(Some(Ipv6Addr::from(value.take::<16>()?))),
        ae::LINK_LOCAL => {
            let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            octets[8..].copy_from_slice(&value.take::<8>()?);
            Ok(Some(Ipv6Addr::from(octets)))
        }
        _ => {
            value.0 = &[];
            Ok(None)
        }
    }
}

fn prefix(length: u8, value: &mut Reader<'_>) -> Result<Prefix, BabelError> {
    let octets = abbreviated(length, 0, 128, None, value)?;
    Prefix::new(Ipv6Addr::from(octets), length).ok_or(BabelError::Field)
}

/// A prefix whose first octets may be those of an earlier one. Bits behind its length are cleared.
fn abbreviated(
    length: u8,
    omitted: u8,
    length_max: u8,
    earlier: Option<[u8; 16]>,
    value: &mut Reader<'_>,
) -> Result<[u8; 16], BabelError> {
    if length > length_max {
        return Err(BabelError::Field);
    }
    let count = usize::from(length).div_ceil(8);
    let omitted = usize::from(omitted);
    let mut octets = [0; 16];
    if omitted > count {
        return Err(BabelError::Field);
    }
    if omitted > 0 {
        let earlier = earlier.ok_or(BabelError::Field)?;
        octets[..omitted].copy_from_slice(&earlier[..omitted]);
    }
    octets[omitted..count].copy_from_slice(value.slice(count - omitted)?);
    let spare_bits = count * 8 - usize::from(length);
    if let Some(last) = count.checked_sub(1) {
        octets[last] &= 0xff << spare_bits;
    }
    Ok(octets)
}

/// Router id from an IPv4 prefix (RFC 8966 section 4.6.9): four zero octets, then the address.
fn router_id_of_ipv4(address: [u8; 16]) -> Option<RouterId> {
    let [a, b, c, d, ..] = address;
    ([a, b, c, d] != [0; 4]).then_some([0, 0, 0, 0, a, b, c, d])
}

#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn slice(&mut self, count: usize) -> Result<&'a [u8], BabelError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(BabelError::Length)?;
        self.0 = tail;
        Ok(head)
    }

    /// A length, and as many bytes.
    fn counted(&mut self) -> Result<Self, BabelError> {
        let length = self.byte()?;
        Ok(Self(self.slice(usize::from(length))?))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], BabelError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(BabelError::Length)?;
        self.0 = tail;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, BabelError> {
        self.take::<1>().map(u8::from_be_bytes)
    }

    fn bit(&mut self) -> Result<bool, BabelError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BabelError::Field),
        }
    }

    fn u16(&mut self) -> Result<u16, BabelError> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, BabelError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u48(&mut self) -> Result<u64, BabelError> {
        let [a, b, c, d, e, f] = self.take()?;
        Ok(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    fn u64(&mut self) -> Result<u64, BabelError> {
        self.take().map(u64::from_be_bytes)
    }

    /// A private sub-TLV has nothing behind its fields.
    const fn end(&self) -> Result<bool, BabelError> {
        if self.0.is_empty() { Ok(true) } else { Err(BabelError::Length) }
    }
}
