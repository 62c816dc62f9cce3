//! Cookies: who repeats one receives at the address that it claims.
//!
//! A cookie is a tag over the caller's address under a secret that changes every two minutes. Whoever makes it keeps
//! nothing: it can be computed again from the address.

use std::net::{IpAddr, SocketAddr};

use atoll_base::MeshAddr;
use zeroize::Zeroizing;

use crate::{
    limits::COOKIE_SECRET_LIFE,
    secrets::Secrets,
    stream::is_stream,
    time::Time,
    wire::handshake::{Cookie, Init, tag},
};

/// Where a handshake comes from: an endpoint, or a network of the mesh.
pub(crate) trait Caller: Copy + Eq {
    /// All of the address.
    fn address(&self) -> [u8; 18];

    /// What one host or site can have many of counts as one: an IPv4 address, an IPv6 /64, a node's network.
    fn group(&self) -> [u8; 16];
}

impl Caller for SocketAddr {
    fn address(&self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&mapped(self.ip()));
        bytes[16..].copy_from_slice(&self.port().to_be_bytes());
        bytes
    }

    fn group(&self) -> [u8; 16] {
        let mut bytes = mapped(self.ip());
        if let IpAddr::V6(ip) = self.ip()
            && ip.to_ipv4_mapped().is_none()
        {
            // A connection's address names its caller in four bytes more.
            bytes[if is_stream(self.ip()) { 12 } else { 8 }..].fill(0);
        }
        bytes
    }
}

impl Caller for MeshAddr {
    fn address(&self) -> [u8; 18] {
        let mut bytes = [0; 18];
        bytes[..14].copy_from_slice(&self.octets());
        bytes
    }

    fn group(&self) -> [u8; 16] {
        self.network().octets()
    }
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Makes cookies and checks them.
pub(crate) struct CookieJar {
    current: Zeroizing<[u8; 16]>,
    previous: Zeroizing<[u8; 16]>,
    since: Time,
}

impl CookieJar {
    pub(crate) fn new(secrets: &mut Secrets, now: Time) -> Self {
        Self { current: fresh(secrets), previous: fresh(secrets), since: now }
    }

    /// The cookie of a caller now.
    pub(crate) fn cookie(&mut self, caller: &impl Caller, secrets: &mut Secrets, now: Time) -> Cookie {
        self.rotate(secrets, now);
        Cookie(tag(&self.current, &caller.address()))
    }

    /// Whether a first message carries the caller's cookie, the present one or the one before.
    pub(crate) fn accepts(&mut self, caller: &impl Caller, init: &Init<'_>, secrets: &mut Secrets, now: Time) -> bool {
        self.rotate(secrets, now);
        init.has_cookie()
            && [&self.current, &self.previous]
                .into_iter()
                .any(|secret| init.proves(&Cookie(tag(secret, &caller.address()))))
    }

    fn rotate(&mut self, secrets: &mut Secrets, now: Time) {
        let age = now.since(self.since);
        if age >= COOKIE_SECRET_LIFE {
            let old = core::mem::replace(&mut self.current, fresh(secrets));
            self.previous = if age < COOKIE_SECRET_LIFE * 2 { old } else { fresh(secrets) };
            self.since = now;
        }
    }
}

fn fresh(secrets: &mut Secrets) -> Zeroizing<[u8; 16]> {
    let mut key = Zeroizing::new([0; 16]);
    key.copy_from_slice(&secrets.draw()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use atoll_base::RegionId;

    use super::*;
    use crate::wire::handshake::{HandshakeFrame, Part, RegionMac};

    fn accepts(jar: &mut CookieJar, secrets: &mut Secrets, caller: SocketAddr, cookie: &Cookie, now: Time) -> bool {
        let mac = RegionMac::of(RegionId([1; 32]));
        let frame = mac.init(Part::Rest, 7, &[9; 32], Some(cookie));
        let Ok(HandshakeFrame::Init(init)) = mac.parse_handshake(&frame) else { panic!("it was just built") };
        jar.accepts(&caller, &init, secrets, now)
    }

    #[test]
    fn a_cookie_is_good_for_its_address_and_for_two_to_four_minutes() {
        let (mut secrets, _) = Secrets::new(&[1; 32]);
        let mut jar = CookieJar::new(&mut secrets, Time::ZERO);
        let caller: SocketAddr = "192.0.2.1:5".parse().expect("an endpoint");
        let other: SocketAddr = "192.0.2.1:6".parse().expect("an endpoint");
        let cookie = jar.cookie(&caller, &mut secrets, Time::ZERO);
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        assert!(accepts(&mut jar, &mut secrets, caller, &cookie, at(1)));
        assert!(!accepts(&mut jar, &mut secrets, other, &cookie, at(1)));
        assert!(!accepts(&mut jar, &mut secrets, caller, &Cookie([0; 16]), at(1)));
        assert!(accepts(&mut jar, &mut secrets, caller, &cookie, at(121)));
        assert!(!accepts(&mut jar, &mut secrets, caller, &cookie, at(242)));
        let cookie = jar.cookie(&caller, &mut secrets, at(242));
        assert!(!accepts(&mut jar, &mut secrets, caller, &cookie, at(1000)), "after a long pause none is good");
    }

    #[test]
    fn callers_are_grouped_by_what_one_site_has() {
        let group = |text: &str| text.parse::<SocketAddr>().expect("an endpoint").group();
        assert_eq!(group("192.0.2.1:5"), group("192.0.2.1:6"));
        assert_eq!(group("192.0.2.1:5"), group("[::ffff:192.0.2.1]:5"));
        assert_ne!(group("192.0.2.1:5"), group("192.0.2.2:5"));
        assert_ne!(group("[::ffff:192.0.2.1]:5"), group("[::ffff:192.0.2.2]:5"));
        assert_eq!(group("[2001:db8::1]:5"), group("[2001:db8::2]:5"));
        assert_ne!(group("[2001:db8::1]:5"), group("[2001:db8:0:1::1]:5"));
    }
}
