//! Whose a first datagram is: the questions of the door.
//!
//! A viewer is found by what only it can know (ping payload, connect data), by its ENet peer id once it
//! streams, and by its address alone only if it can send nothing better and no other could be meant.
use std::net::SocketAddr;
use std::time::Duration;

use super::event::Route;
use super::grant::{Grant, Stage};
use super::{Host, same_address};
use crate::ipc::SessionId;
use crate::proto::ping::Payload;
use crate::proto::stream::Flow;
use crate::time::Time;

/// A flow is handed over at most once in this time.
const HAND_OVER_EVERY: Duration = Duration::from_secs(1);

impl Host {
    /// A ping on the video or audio port; `payload` is None for the legacy form.
    pub fn route_ping(
        &mut self,
        flow: Flow,
        payload: Option<&Payload>,
        source: SocketAddr,
        now: Time,
    ) -> Route {
        let Some(payload) = payload else {
            return self.route_by_address(flow, source, now, |_| true);
        };
        self.route(flow, source, now, |grant| grant.wire.ping_payload.as_bytes() == payload)
    }

    /// An ENet CONNECT with this `data`. Every SETUP gives data, never 0: only a client that does not
    /// read it sends 0 and is found by its address. Source: moonlight-common-c src/RtspConnection.c.
    pub fn route_connect(&mut self, data: u32, source: SocketAddr, now: Time) -> Route {
        let awaited = |grant: &Grant| matches!(grant.stage, Stage::Ready | Stage::Playing);
        if data == 0 {
            return self.route_by_address(Flow::Control, source, now, awaited);
        }
        self.route(Flow::Control, source, now, |g| awaited(g) && g.wire.connect_data == data)
    }

    /// Any other datagram on the control port, sent to this ENet peer id.
    pub fn route_peer(&mut self, peer_id: u16, source: SocketAddr, now: Time) -> Route {
        if let Some(session) = self.sessions.wills.of(peer_id, source) {
            return Route::LastWill { session };
        }
        self.route(Flow::Control, source, now, |grant| {
            grant.stage == Stage::Connected && grant.wire.peer_id == peer_id
        })
    }

    /// The datagram that ends the client of a session that died.
    pub fn last_will(&self, session: SessionId) -> Option<Vec<u8>> {
        self.sessions.wills.datagram(session).map(<[u8]>::to_vec)
    }

    /// The one grant without identity from this address. Whose source was seen before is nobody
    /// else's: its hand-over failed, or it repeats itself.
    fn route_by_address(
        &mut self,
        flow: Flow,
        source: SocketAddr,
        now: Time,
        fits: impl Fn(&Grant) -> bool,
    ) -> Route {
        let near =
            |g: &Grant| same_address(g.peer, source.ip()) && g.found_by_address(now) && fits(g);
        let first = |g: &Grant| g.handed[flow as usize].map(|(first, _)| first);
        let known = self.sessions.live_grants().any(|(_, g)| first(g) == Some(source));
        let wanted = known.then_some(source);
        self.route(flow, source, now, |grant| near(grant) && first(grant) == wanted)
    }

    /// The one grant that fits, unless it was handed over a moment ago. Several that fit are nobody's.
    fn route(
        &mut self,
        flow: Flow,
        source: SocketAddr,
        now: Time,
        fits: impl Fn(&Grant) -> bool,
    ) -> Route {
        let mut fitting = self.sessions.live_grants().filter(|(_, grant)| fits(grant));
        let (Some((session, grant)), None) = (fitting.next(), fitting.next()) else {
            return Route::Stranger;
        };
        let handed = &mut grant.handed[flow as usize];
        if handed.is_some_and(|(_, at)| now.since(at) < HAND_OVER_EVERY) {
            return Route::Stranger;
        }
        *handed = Some((source, now));
        Route::HandOver { session, viewer: grant.wire.viewer }
    }
}
