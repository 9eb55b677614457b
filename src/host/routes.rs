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
        self.route(flow, source, now, |grant| match payload {
            Some(payload) => grant.wire.ping_payload.as_bytes() == payload,
            None => legacy(grant, flow, source, now),
        })
    }

    /// An ENet CONNECT with this `data`. Who shows the data goes before who shows only its address.
    pub fn route_connect(&mut self, data: u32, source: SocketAddr, now: Time) -> Route {
        let awaited = |grant: &Grant| matches!(grant.stage, Stage::Ready | Stage::Playing);
        let shown = |grant: &Grant| awaited(grant) && grant.wire.connect_data == data;
        let known = self.sessions.live_grants().any(|(_, grant)| shown(grant));
        self.route(Flow::Control, source, now, |grant| match known {
            true => shown(grant),
            false => awaited(grant) && legacy(grant, Flow::Control, source, now),
        })
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

/// A client that sends no identity, from where it launched. The first that comes gets the flow: only
/// the same source may come again, for a hand-over that failed.
fn legacy(grant: &Grant, flow: Flow, source: SocketAddr, now: Time) -> bool {
    same_address(grant.peer, source.ip())
        && grant.found_by_address(now)
        && grant.handed[flow as usize].is_none_or(|(first, _)| first == source)
}
