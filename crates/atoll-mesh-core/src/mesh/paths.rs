//! Where a neighbour is: how a link follows it to another endpoint, and how a node learns its own.
//!
//! An authentic frame from a new endpoint moves nothing by itself, for anybody can send a frame on that was caught on
//! its way. Both endpoints are asked, each by a word of its own under the link's keys; if the new one answers and the
//! old one does not, the link moves (RFC 9000 sections 8.2 and 9.3). Keys, sessions and routes stay as they are.

use std::net::SocketAddr;

use rand_chacha::rand_core::Rng as _;

use super::{Event, LinkId, Mesh};
use crate::{
    limits::{PATH_CHECK_PAUSE, PATH_OLD_KEEP},
    punch::{ENDPOINT_BYTES, endpoint_bytes, parse_endpoint},
    stream::is_stream,
    time::Time,
    timers::Timer,
    wire::{PAYLOAD_PATH_CHALLENGE, PAYLOAD_PATH_RESPONSE},
};

/// Bytes of a word that an endpoint has to repeat.
const TOKEN_BYTES: usize = 8;
/// Bytes of a challenge and of a response, so that no answer is larger than what it answers.
const PATH_PAYLOAD_BYTES: usize = 1 + TOKEN_BYTES + ENDPOINT_BYTES;

type Token = [u8; TOKEN_BYTES];

/// What a link knows of the path under it.
#[derive(Default)]
pub(super) struct Paths {
    check: Option<Check>,
    /// A question to the neighbour, where it sees this node.
    asked: Option<Token>,
    /// Where the neighbour sees this node.
    pub(super) observed: Option<SocketAddr>,
}

/// Whether the neighbour is at a new endpoint.
struct Check {
    new: (SocketAddr, Token),
    old: (SocketAddr, Token),
    since: Time,
    /// When both were asked last.
    asked: Time,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody has answered.
    Open,
    /// The new endpoint answered, and has the link.
    Moved,
    /// The old endpoint answered, so the neighbour is still there.
    Refuted,
}

impl Mesh {
    /// The addresses of this machine changed: neighbours hear of it at once, over every link, and those that see this
    /// node elsewhere now follow.
    pub fn handle_address_change(&mut self, now: Time) {
        for (id, link) in &mut self.links {
            link.liveness.handle_moved();
            self.timers.no_later_than(Timer::Link(*id), link.liveness.deadline().max(now));
        }
        let up: Vec<_> = self.links.iter().filter(|(_, link)| link.liveness.is_up()).map(|(id, _)| *id).collect();
        for id in up {
            self.ask_observed(id, now);
        }
    }

    /// An authentic frame of a link came from elsewhere than the neighbour is thought to be.
    pub(super) fn handle_new_path(&mut self, id: LinkId, from: SocketAddr, now: Time) {
        if self.is_inside(from.ip()) {
            return;
        }
        // A link over datagrams stays one, and so does one over connections: they differ in cost and in what is sent.
        if self.links.get(&id).is_none_or(|link| is_stream(link.endpoint.ip()) != is_stream(from.ip())) {
            return;
        }
        let tokens = [self.token(), self.token()];
        let Some(link) = self.links.get_mut(&id) else { return };
        let old = link.endpoint;
        if let Some(check) = link.paths.check.as_mut().filter(|check| now.since(check.since) < PATH_OLD_KEEP) {
            let is_same = check.new.0 == from;
            match check.state {
                // Answers take a round trip: the words stay what they are until then.
                State::Open if is_same && now.since(check.asked) >= PATH_CHECK_PAUSE => {
                    check.asked = now;
                    let (new, old) = (check.new, check.old);
                    self.send_challenge(id, new.0, new.1, now);
                    return self.send_challenge(id, old.0, old.1, now);
                }
                State::Open => return,
                State::Refuted if is_same && link.liveness.is_up() => return,
                // The old endpoint may still answer what it was asked.
                State::Moved if check.old.0 == from => return,
                State::Moved | State::Refuted if now.since(check.asked) < PATH_CHECK_PAUSE => return,
                State::Moved | State::Refuted => {}
            }
        }
        let (new, previous) = ((from, tokens[0]), (old, tokens[1]));
        link.paths.check = Some(Check { new, old: previous, since: now, asked: now, state: State::Open });
        self.send_challenge(id, from, tokens[0], now);
        self.send_challenge(id, old, tokens[1], now);
    }

    /// Asks a neighbour where it sees this node.
    pub(super) fn ask_observed(&mut self, id: LinkId, now: Time) {
        let token = self.token();
        let Some(link) = self.links.get_mut(&id) else { return };
        link.paths.asked = Some(token);
        let to = link.endpoint;
        self.send_challenge(id, to, token, now);
    }

    /// Takes a challenge, and answers it where it came from.
    pub(super) fn handle_path_challenge(&mut self, id: LinkId, from: SocketAddr, payload: &[u8], now: Time) {
        let Some((token, _)) = path_payload(payload) else { return self.counters.dropped_malformed += 1 };
        // A connection's address means nothing to others: they are told none.
        let seen = if is_stream(from.ip()) { [0; ENDPOINT_BYTES] } else { endpoint_bytes(from) };
        let answer = [&[PAYLOAD_PATH_RESPONSE][..], &token, &seen].concat();
        self.send_link_to(id, from, &answer, now);
    }

    /// Takes an answer to a challenge.
    pub(super) fn handle_path_response(&mut self, id: LinkId, payload: &[u8], now: Time) {
        let Some((token, seen)) = path_payload(payload) else { return self.counters.dropped_malformed += 1 };
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.paths.asked == Some(token) {
            link.paths.asked = None;
            link.paths.observed = parse_endpoint(&seen);
        }
        let Some(check) = link.paths.check.as_mut().filter(|check| now.since(check.since) < PATH_OLD_KEEP) else {
            return;
        };
        // Whoever sends frames on from another address has not silenced the old one: that one is believed.
        let to = if check.old.1 == token {
            check.state = State::Refuted;
            check.old.0
        } else if check.new.1 == token && check.state == State::Open {
            check.state = State::Moved;
            check.new.0
        } else {
            return;
        };
        if link.endpoint != to {
            link.endpoint = to;
            self.handle_moved(id, now);
        }
    }

    /// The neighbour is at another endpoint now.
    fn handle_moved(&mut self, id: LinkId, now: Time) {
        self.counters.links_moved += 1;
        let Some(link) = self.links.get_mut(&id) else { return };
        link.mtu.handle_up(now);
        link.liveness.handle_moved();
        self.timers.no_later_than(Timer::Link(id), now);
        if let Some(peer) = link.peer {
            let endpoint = link.endpoint;
            self.event(Event::LinkMoved { link: id, node: peer.node, endpoint });
        }
        // The path may carry less than the one before.
        self.settle_link(id, now);
        self.send_hello(id, true, now);
        self.schedule_link(id);
    }

    fn send_challenge(&mut self, id: LinkId, to: SocketAddr, token: Token, now: Time) {
        let mut payload = vec![PAYLOAD_PATH_CHALLENGE];
        payload.extend_from_slice(&token);
        payload.resize(PATH_PAYLOAD_BYTES, 0);
        self.send_link_to(id, to, &payload, now);
    }

    pub(super) fn token(&mut self) -> Token {
        self.rng.next_u64().to_be_bytes()
    }
}

/// Token and endpoint of a challenge or response.
fn path_payload(payload: &[u8]) -> Option<(Token, [u8; ENDPOINT_BYTES])> {
    let payload: &[u8; PATH_PAYLOAD_BYTES] = payload.try_into().ok()?;
    let (token, rest) = payload[1..].split_first_chunk()?;
    Some((*token, *rest.first_chunk()?))
}
