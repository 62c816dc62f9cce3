//! Another way to the Internet for this machine's own packets: through a link of its own, but for those of one program.
//!
//! ```text
//! preference  packets of this machine                      look at
//! 30000       marked with [`DETOUR_MARK`]                  the main table
//! 30001       from an address that is in 2000::/3          the main table
//! 30002       to 2000::/3                                  the main table, but for its routes of 3 bits or less
//! 30003       to 2000::/3                                  the table of the detour
//! 30004       to 64:ff9b::/96                              as 30002
//! 30005       to 64:ff9b::/96                              the table of the detour
//! ```
//!
//! In 64:ff9b::/96 are the addresses by which IPv4 is reached (RFC 6052).
//!
//! So the detour wins over default routes and loses against all narrower ones; who is bound to an address of the
//! Internet answers from there as ever; and what is forwarded for others is not concerned. Packets of the program that
//! makes the detour carry the mark, so that they never go through themselves.

use std::net::Ipv6Addr;

use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::{EEXIST, ENOENT, LinkError, Links, ignore, kernel, kernel_with};

/// Mark of the packets that do not take the detour.
pub const DETOUR_MARK: u32 = 0xa701;
/// The table of the detour.
const TABLE: u32 = 42_701;
const MAIN_TABLE: u32 = 254;
const PREFERENCE_FIRST: u32 = 30_000;
const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);
const OUTSIDE_BITS: u8 = 3;
const IPV4: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
const IPV4_BITS: u8 = 96;

impl Links {
    /// Sends this machine's packets to 2000::/3 and 64:ff9b::/96 over a link, from this address of it. The routes end
    /// with the link.
    pub async fn ensure_detour(&self, link: &str, source: Ipv6Addr) -> Result<(), LinkError> {
        let index = self.require(link).await?;
        for (network, bits) in [(OUTSIDE, OUTSIDE_BITS), (IPV4, IPV4_BITS)] {
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network, bits)
                .output_interface(index)
                .pref_source(source)
                .table_id(TABLE)
                .build();
            let what = || format!("make the route to the exit over {link}");
            self.handle.route().add(route).replace().execute().await.map_err(kernel_with(what))?;
        }
        for rule in rules() {
            let mut request = self.handle.rule().add();
            *request.message_mut() = rule;
            ignore(&[EEXIST], request.execute().await).map_err(kernel("make a rule of the way to the exit"))?;
        }
        Ok(())
    }

    /// Ends the detour, also one of an earlier process.
    pub async fn remove_detour(&self) -> Result<(), LinkError> {
        for rule in rules() {
            let result = self.handle.rule().del(rule).execute().await;
            ignore(&[ENOENT], result).map_err(kernel("remove a rule of the way to the exit"))?;
        }
        Ok(())
    }
}

fn rules() -> [RuleMessage; 6] {
    let to = |network: Ipv6Addr| RuleAttribute::Destination(network.into());
    // Routes narrower than a default route win.
    let narrow = || RuleAttribute::SuppressPrefixLen(OUTSIDE_BITS.into());
    let (outside, ipv4) = ((0, OUTSIDE_BITS), (0, IPV4_BITS));
    [
        rule(0, MAIN_TABLE, (0, 0), vec![RuleAttribute::FwMark(DETOUR_MARK)]),
        rule(1, MAIN_TABLE, (OUTSIDE_BITS, 0), vec![RuleAttribute::Source(OUTSIDE.into())]),
        rule(2, MAIN_TABLE, outside, vec![to(OUTSIDE), narrow()]),
        rule(3, TABLE, outside, vec![to(OUTSIDE)]),
        rule(4, MAIN_TABLE, ipv4, vec![to(IPV4), narrow()]),
        rule(5, TABLE, ipv4, vec![to(IPV4)]),
    ]
}

fn rule(number: u32, table: u32, (source, target): (u8, u8), attributes: Vec<RuleAttribute>) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.action = RuleAction::ToTable;
    (message.header.src_len, message.header.dst_len) = (source, target);
    message.attributes = attributes;
    message.attributes.push(RuleAttribute::Iifname("lo".to_owned()));
    message.attributes.push(RuleAttribute::Priority(PREFERENCE_FIRST + number));
    message.attributes.push(RuleAttribute::Table(table));
    message
}
