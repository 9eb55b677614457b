//! The host as the front's core needs it.
use std::net::SocketAddr;
use std::sync::Arc;

use super::core::Machine;
use crate::host::event::{Effect, Event, HostFacts, Route};
use crate::host::{Host, pairings::OwnIdentity};
use crate::ipc::SessionId;
use crate::proto::crypto::Signer;
use crate::proto::ping::Payload;
use crate::proto::stream::Flow;
use crate::time::{Entropy, Time};
use crate::tls::identity::Identity;

impl Machine for Host {
    fn handle(
        &mut self,
        event: Event,
        now: Time,
        entropy: &mut dyn Entropy,
        effects: &mut Vec<Effect>,
    ) {
        self.handle(event, now, entropy, effects);
    }

    fn next_timeout(&self) -> Option<Time> {
        self.next_timeout()
    }

    fn is_calm(&self) -> bool {
        self.is_calm()
    }

    fn route_ping(
        &mut self,
        flow: Flow,
        payload: Option<&Payload>,
        source: SocketAddr,
        now: Time,
    ) -> Route {
        self.route_ping(flow, payload, source, now)
    }

    fn route_connect(&mut self, data: u32, source: SocketAddr, now: Time) -> Route {
        self.route_connect(data, source, now)
    }

    fn route_peer(&mut self, peer_id: u16, source: SocketAddr, now: Time) -> Route {
        self.route_peer(peer_id, source, now)
    }

    fn last_will(&mut self, session: SessionId) -> Option<Vec<u8>> {
        Self::last_will(self, session)
    }

    fn learn(&mut self, facts: HostFacts) {
        self.learn(facts);
    }
}

/// The host's part in pairings; the key itself stays with `tls`.
pub fn own_identity(identity: &Arc<Identity>) -> OwnIdentity {
    OwnIdentity {
        certificate: identity.certificate().clone(),
        pem: identity.certificate_pem().to_owned(),
        signer: Box::new(HostKey(Arc::clone(identity))),
    }
}

struct HostKey(Arc<Identity>);

impl Signer for HostKey {
    fn sign_pkcs1_sha256(&self, message: &[u8]) -> Vec<u8> {
        self.0.signer().sign_pkcs1_sha256(message)
    }
}
