//! What must hold: at every step, for every answer, and in the end.
use std::collections::BTreeSet;

use moonshard::host::client_id;
use moonshard::host::event::{Answer, CallId, Effect, Event};
use moonshard::host::grant::Grant;
use moonshard::ipc::{ClientId, FromSession, ViewerId};

use super::{ATTACKER, CLIENTS, Canary, MUST, NEWCOMER, Plan, World};

impl World {
    pub fn check(&self) {
        if let Some((id, call)) = self.calls.iter().find(|(_, c)| c.until < self.now) {
            let late = format!("call {id:?} ({:?}) outlives its deadline", call.wish);
            self.broken(&late);
        }
        let mut clients = BTreeSet::new();
        let mut payloads = BTreeSet::new();
        let mut peers = BTreeSet::new();
        for (id, client, stopping, grant) in self.host.sessions().table() {
            if !stopping && !clients.insert(client) {
                self.broken(&format!("{id}: a second live session of one client"));
            }
            let Some(grant) = grant else { continue };
            if !payloads.insert(&grant.wire.ping_payload) || !peers.insert(grant.wire.peer_id) {
                self.broken("two live grants cannot be told apart");
            }
        }
        if self.canary == Some(Canary::Safety) && self.streams > 0 {
            self.broken("the canary: a stream exists");
        }
        if self.now > MUST {
            self.must_have_played();
        }
    }

    /// Faults have stopped long ago: who may stream has.
    fn must_have_played(&self) {
        let paired = |n: usize| self.players[n].strives && self.lets_in(n);
        let may = |n: &usize| match self.plan {
            Plan::Chance if *n == NEWCOMER => !self.players[*n].delayed,
            Plan::Chance => paired(*n),
            _ => *n == NEWCOMER,
        };
        let waits = (0..ATTACKER).filter(may).find(|n| !self.players[*n].played);
        if let Some(player) = waits {
            self.broken(&format!("client {player} has not come to a stream"));
        }
    }

    /// The TLS question in an event, and whether its client is let in.
    pub fn question(&self, event: &Event) -> Option<(CallId, bool)> {
        let Event::Http { call, caller, .. } = event else { return None };
        let client = client_id(caller.certificate.as_ref()?);
        Some((*call, self.authorised.contains(&client)))
    }

    /// Who is not paired gets 401 and nothing else, at once; who is never does.
    pub fn must_know_who_asks(&self, asked: Option<(CallId, bool)>, effects: &[Effect]) {
        let Some((asked, paired)) = asked else { return };
        let refused = effects.iter().any(|effect| match effect {
            Effect::Answer { call, answer: Answer::Http(response) } if *call == asked => {
                String::from_utf8_lossy(&response.body).contains("status_code=\"401\"")
            }
            _ => false,
        });
        if refused == paired {
            self.broken("an unpaired client was served, or a paired one refused");
        }
        if refused && effects.len() != 1 {
            self.broken("an unpaired client has started something");
        }
    }

    /// Nobody's datagram may bring about a flow of another client. Only who shows no identity, and has
    /// no launch of its own any more, cannot be told from another such client of its address.
    pub fn must_be_its_own(&self, player: usize, viewer: ViewerId) {
        let it = &self.players[player];
        let own = |id| it.grant.as_ref().is_some_and(|g| g.viewer == id);
        let lives = |grant: &Grant| own(grant.wire.viewer) && grant.found_by_address(self.now);
        let mut table = self.host.sessions().table();
        if !it.identity && !table.any(|(_, _, stopping, g)| !stopping && g.is_some_and(lives)) {
            return;
        }
        let others = (0..CLIENTS).filter(|other| *other != player);
        let of = |n: usize| self.players[n].grant.as_ref().is_some_and(|g| g.viewer == viewer);
        if others.into_iter().any(of) {
            self.broken("a flow was handed to another client's viewer");
        }
    }

    pub fn must_be_dark(&self, client: ClientId, generation: u64) {
        if generation != self.generation || self.authorised.contains(&client) {
            return;
        }
        let streams = |p: &super::Process| match p.life.identity(1) {
            FromSession::Identity { spec, streaming, .. } => spec.client == client && streaming,
            _ => false,
        };
        if self.processes.values().any(streams) {
            self.broken("a removed client still streams");
        }
    }

    pub fn settled(&self) {
        if !self.processes.is_empty() {
            self.broken("a session lives on");
        }
        if !self.host.is_idle() || !self.calls.is_empty() {
            self.broken("the host is not idle");
        }
        if let Some(at) = self.host.next_timeout() {
            self.broken(&format!("an idle host waits until {at:?}"));
        }
        self.must_have_played();
    }
}
