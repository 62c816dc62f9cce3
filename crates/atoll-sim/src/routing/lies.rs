//! Nodes that lie to their neighbours.

use atoll_mesh_core::{
    Target,
    babel::{self, INFINITY, Path, Tlv, Update, Writer},
    limits::LINK_COST,
};
use rand::RngExt as _;

use super::Routers;

/// How a node lies. All of them forward what they attract as their own routes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// It changes, invents and signs in others' names.
    Forge,
    /// It repeats what it once heard or said.
    Replay,
    /// It says that it is next to everybody.
    Near,
}

impl Routers {
    /// What a liar makes of its own packet.
    pub(super) fn bend(&mut self, index: usize, lie: Lie, bytes: &[u8]) -> Vec<u8> {
        let mut tlvs = babel::decode(bytes).expect("own packets are well-formed");
        let own = Target::Node(self.network(index)).prefix();
        let is_batch = tlvs.iter().any(|tlv| matches!(tlv, Tlv::AckRequest(_)));
        for tlv in &mut tlvs {
            let Tlv::Update(update) = tlv else { continue };
            if update.prefix == Some(own) {
                continue;
            }
            if update.origin.is_some() && self.heard.len() < 300 {
                self.heard.push(**update);
            }
            match lie {
                Lie::Forge if self.rng.random_bool(0.4) => self.forge(update),
                Lie::Near if update.metric != INFINITY => near(update),
                Lie::Forge | Lie::Near | Lie::Replay => {}
            }
        }
        if is_batch && lie == Lie::Replay && !self.heard.is_empty() {
            for _ in 0..2 {
                let mut old = self.heard[self.rng.random_range(0..self.heard.len())];
                if old.origin.is_some_and(|origin| origin.is_retraction) {
                    old.metric = INFINITY;
                }
                tlvs.push(Tlv::Update(Box::new(old)));
            }
        }
        let mut writer = Writer::default();
        for tlv in &tlvs {
            writer.push(tlv);
        }
        writer.finish()
    }

    fn forge(&mut self, update: &mut Update) {
        let Some(origin) = &mut update.origin else { return };
        match self.rng.random_range(0..5) {
            0 => origin.epoch += 1,
            1 => update.seqno = update.seqno.wrapping_add(1),
            2 => origin.signature[5] ^= 1,
            3 => {
                origin.is_retraction = true;
                (update.metric, update.router_id) = (INFINITY, None);
            }
            _ => {
                let other = self.heard[self.rng.random_range(0..self.heard.len())];
                update.origin = other.origin;
            }
        }
    }
}

/// The smallest distance that is believed of somebody who is not the origin.
fn near(update: &mut Update) {
    update.metric = LINK_COST;
    update.path = update.path.map(|path| Path { hops: 1, ..path });
}
