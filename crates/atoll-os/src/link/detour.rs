//! Another way to the Internet for this machine's own packets: through a link of its own, but for those of one program.
//!
//! ```text
//! preference  packets of this machine                      look at
//! 30000       marked with [`DETOUR_MARK`]                  the main table
//! 30001       from an address that is in 2000::/3          the main table
//! 30002       to 2000::/3                                  the main table, but for its routes of 3 bits or less
//! 30003       to 2000::/3                                  the table of the detour
//! ```
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

impl Links {
    /// Sends this machine's packets to 2000::/3 over a link, from this address of it. The routes end with the link.
    pub async fn ensure_detour(&self, link: &str, source: Ipv6Addr) -> Result<(), LinkError> {
        let index = self.require(link).await?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(OUTSIDE, OUTSIDE_BITS)
            .output_interface(index)
            .pref_source(source)
            .table_id(TABLE)
            .build();
        let what = || format!("make the route to the exit over {link}");
        self.handle.route().add(route).replace().execute().await.map_err(kernel_with(what))?;
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

fn rules() -> [RuleMessage; 4] {
    let outside = RuleAttribute::Destination(OUTSIDE.into());
    [
        rule(0, MAIN_TABLE, vec![RuleAttribute::FwMark(DETOUR_MARK)]),
        rule(1, MAIN_TABLE, vec![RuleAttribute::Source(OUTSIDE.into())]),
        rule(2, MAIN_TABLE, vec![outside.clone(), RuleAttribute::SuppressPrefixLen(OUTSIDE_BITS.into())]),
        rule(3, TABLE, vec![outside]),
    ]
}

fn rule(number: u32, table: u32, attributes: Vec<RuleAttribute>) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.action = RuleAction::ToTable;
    for attribute in &attributes {
        match attribute {
            RuleAttribute::Source(_) => message.header.src_len = OUTSIDE_BITS,
            RuleAttribute::Destination(_) => message.header.dst_len = OUTSIDE_BITS,
            _ => {}
        }
    }
    message.attributes = attributes;
    message.attributes.push(RuleAttribute::Iifname("lo".to_owned()));
    message.attributes.push(RuleAttribute::Priority(PREFERENCE_FIRST + number));
    message.attributes.push(RuleAttribute::Table(table));
    message
}
