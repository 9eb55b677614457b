//! A session says who it is: all that a new front knows of it, and what a link that broke has lost.
//!
//! Who streams goes on, and so does who only has to connect. A handshake that was under way is void:
//! its answers would repeat IVs.
use super::{Connected, Session, Sessions, State};
use crate::config::Config;
use crate::host::Context;
use crate::host::event::Effect;
use crate::host::grant::{Grant, Stage};
use crate::ipc::{ActiveViewer, SessionId, SessionSpec, ToSession, ViewerGrant};
use std::time::Duration;

/// The parts of `FromSession::Identity`.
pub(super) struct Identity {
    pub(super) spec: SessionSpec,
    pub(super) pid: u32,
    pub(super) started: bool,
    pub(super) streaming: bool,
    pub(super) grants: Vec<ViewerGrant>,
    pub(super) active: Option<ActiveViewer>,
}

impl Sessions {
    pub(super) fn identity(
        &mut self,
        id: SessionId,
        identity: Identity,
        config: &Config,
        cx: &mut Context<'_>,
    ) {
        if self.ended.contains(&id) {
            return;
        }
        let (pid, started) = (identity.pid, identity.started);
        let known = self.all.contains_key(&id);
        let twin = self.of_client(identity.spec.client).filter(|_| !known);
        match self.all.get_mut(&id) {
            Some(session) => session.catch_up(identity, config, cx),
            None => self.adopt(id, identity, config, cx),
        }
        if let Some(session) = self.all.get_mut(&id) {
            session.pid = Some(pid);
            if started && matches!(session.state, State::Starting { .. }) {
                session.state = State::Running;
            }
        }
        if let Some(twin) = twin {
            self.settle_twins(id, twin, config, cx);
        }
        self.serve_all(config, cx);
    }

    /// Takes over a session of an earlier front.
    fn adopt(&mut self, id: SessionId, identity: Identity, config: &Config, cx: &mut Context<'_>) {
        let Identity { spec, streaming, mut grants, active, .. } = identity;
        for grant in &grants {
            self.keys.note(spec.client, &grant.key);
        }
        let until = cx.now + Duration::from_millis(config.limits.launch_ms);
        let mut session = Session::new(spec, State::Starting { until }, cx.now);
        let goes_on = match &active {
            Some(active) => active.ready.then_some(active.viewer),
            None => grants.last().filter(|_| streaming).map(|grant| grant.viewer),
        };
        let wire = goes_on
            .and_then(|viewer| grants.iter().position(|g| g.viewer == viewer))
            .map(|at| grants.remove(at));
        for void in grants {
            let reason = "the host was restarted".to_owned();
            let message = ToSession::EndViewer { viewer: void.viewer, reason };
            cx.effects.push(Effect::Send { session: id, message });
        }
        if let Some(wire) = wire {
            self.free_from_strangers(wire.peer_id, cx);
            let connected = active.and_then(|active| active.connected);
            let stage = if streaming { Stage::Connected } else { Stage::Playing };
            session.connected = connected.map(|c| Connected {
                viewer: wire.viewer,
                peer_id: wire.peer_id,
                peer: c.peer,
                last_will: c.last_will,
            });
            let until = cx.now + Duration::from_millis(config.limits.grant_ms);
            session.grant = Some(Grant::adopted(wire, stage, until));
        }
        self.all.insert(id, session);
    }

    /// An adopted stream keeps its ENet peer id: a launch that was given the same one starts again.
    fn free_from_strangers(&mut self, peer_id: u16, cx: &mut Context<'_>) {
        for (id, session) in &mut self.all {
            let taken = |grant: &mut Grant| grant.wire.peer_id == peer_id && grant.pending();
            if let Some(grant) = session.grant.take_if(taken) {
                super::end_grant(*id, grant, "its peer id belongs to another stream", cx);
            }
        }
    }

    /// A launch came before the word of the client's old session did: the game that runs is kept, if it
    /// is the same one, and who waits gets it; else the newer wish wins.
    fn settle_twins(
        &mut self,
        old: SessionId,
        new: SessionId,
        config: &Config,
        cx: &mut Context<'_>,
    ) {
        let same = self.all[&old].spec.app.id == self.all[&new].spec.app.id;
        let starts = matches!(self.all[&new].state, State::Starting { .. });
        let loser = if same && starts && self.all[&old].state == State::Running {
            let waiting = self.all.get_mut(&new).map(|s| std::mem::take(&mut s.waiting));
            if let Some(session) = self.all.get_mut(&old) {
                session.waiting.extend(waiting.unwrap_or_default());
            }
            new
        } else {
            old
        };
        self.stop_session(loser, "this device has another session", config, cx);
    }
}

impl Session {
    /// What it told while its link was broken.
    fn catch_up(&mut self, identity: Identity, config: &Config, cx: &mut Context<'_>) {
        let Some(grant) = &mut self.grant else { return };
        let viewer = grant.wire.viewer;
        let active = identity.active.filter(|active| active.viewer == viewer);
        match active {
            Some(ActiveViewer { connected: Some(c), .. }) => {
                grant.ready(config, cx);
                grant.stage = Stage::Connected;
                let (peer_id, last_will) = (grant.wire.peer_id, c.last_will);
                self.connected = Some(Connected { viewer, peer_id, peer: c.peer, last_will });
            }
            Some(active) if active.ready => grant.ready(config, cx),
            _ if grant.stage == Stage::Connected
                && identity.grants.iter().all(|g| g.viewer != viewer) =>
            {
                self.grant = None;
                self.connected = None;
            }
            _ => {}
        }
    }
}
