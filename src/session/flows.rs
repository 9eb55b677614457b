//! The sockets of viewers: those that wait to be put to use, and the control connections in use.
//!
//! It decides nothing: what is stashed is taken or dropped when told so. A stash is bounded by what the
//! session's life lets in, one socket for each flow of a viewer that has a grant.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::control::{Control, ControlEvent};
use crate::ipc::{ViewerGrant, ViewerId};
use crate::proto::control::Feedback;
use crate::proto::stream::{Flow, StreamSpec};
use crate::time::Time;

#[derive(Default)]
pub struct Flows {
    controls: BTreeMap<ViewerId, Connection>,
    stash: BTreeMap<(ViewerId, Flow), Arrived>,
}

/// A socket as the front handed it over.
pub struct Arrived {
    pub socket: OwnedFd,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// The datagram that opened the flow.
    pub first: Vec<u8>,
}

/// What a viewer said, and where it is.
#[derive(Debug)]
pub struct Said {
    pub viewer: ViewerId,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub event: ControlEvent,
}

/// A control connection and where it goes.
struct Connection {
    control: Control,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Flows {
    /// Keeps a socket until it is taken; the newest of a flow wins.
    pub fn stash(&mut self, viewer: ViewerId, flow: Flow, arrived: Arrived) {
        self.stash.insert((viewer, flow), arrived);
    }

    pub fn take(&mut self, viewer: ViewerId, flow: Flow) -> Option<Arrived> {
        self.stash.remove(&(viewer, flow))
    }

    /// Closes what waits of this viewer.
    pub fn drop_stashed(&mut self, viewer: ViewerId) {
        self.stash.retain(|(of, _), _| *of != viewer);
    }

    /// Opens the viewer's control connection, or moves it if it has one and the datagram proves it.
    pub fn control(
        &mut self,
        grant: &ViewerGrant,
        stream: &StreamSpec,
        arrived: Arrived,
        now: Time,
    ) {
        let viewer = grant.viewer;
        let Arrived { socket, local, peer, first } = arrived;
        if let Some(connection) = self.controls.get_mut(&viewer) {
            match connection.control.move_to(socket, first, now) {
                Ok(()) => (connection.local, connection.peer) = (local, peer),
                Err(e) => tracing::debug!(%viewer, error = %e, "a control flow did not move"),
            }
            return;
        }
        match Control::open(socket, first, grant, stream) {
            Ok(control) => {
                self.controls.insert(viewer, Connection { control, local, peer });
            }
            // The viewer's deadline for its connection ends it.
            Err(e) => tracing::error!(%viewer, error = %e, "no control connection"),
        }
    }

    /// Serves all control connections. True: there is more, call again soon.
    pub fn service(&mut self, said: &mut Vec<Said>) -> bool {
        let mut events = Vec::new();
        let mut more = false;
        for (viewer, connection) in &mut self.controls {
            more |= connection.control.service(&mut events);
            let (viewer, local, peer) = (*viewer, connection.local, connection.peer);
            said.extend(events.drain(..).map(|event| Said { viewer, local, peer, event }));
        }
        more
    }

    pub fn say(&mut self, viewer: ViewerId, feedback: &Feedback) {
        if let Some(connection) = self.controls.get_mut(&viewer) {
            connection.control.send(feedback);
        }
    }

    pub fn close_control(&mut self, viewer: ViewerId) {
        if let Some(mut connection) = self.controls.remove(&viewer) {
            connection.control.close();
        }
    }

    pub fn close_all(&mut self) {
        self.stash.clear();
        while let Some((_, mut connection)) = self.controls.pop_first() {
            connection.control.close();
        }
    }

    /// Control connections are served.
    pub fn is_served(&self) -> bool {
        !self.controls.is_empty()
    }

    /// The sockets of the control connections.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.controls.values().map(|connection| connection.control.as_fd())
    }

    /// To the viewer and back; None: it is not connected.
    pub fn round_trip(&self, viewer: ViewerId) -> Option<Duration> {
        self.controls.get(&viewer)?.control.round_trip()
    }

    /// Counts of the control connection of `viewer`, the active one; without one, of any that is there.
    pub fn figures(&self, viewer: Option<ViewerId>, figures: &mut BTreeMap<String, f64>) {
        let active = viewer.and_then(|viewer| self.controls.get(&viewer));
        let Some(connection) = active.or_else(|| self.controls.values().next_back()) else {
            return;
        };
        let control = connection.control.figures();
        for (name, value) in [
            ("control_messages", control.messages),
            ("control_forged", control.forged),
            ("control_replayed", control.replayed),
            ("control_malformed", control.malformed),
            ("control_strange_datagrams", control.strange_datagrams),
            ("control_send_errors", control.send_errors),
            ("control_moves", control.moves),
            ("fec_reports", control.fec_reports),
            ("packets_missed", control.packets_missed),
            ("blocks_recovered", control.blocks_recovered),
            ("blocks_lost", control.blocks_lost),
        ] {
            figures.insert(name.to_owned(), value as f64);
        }
    }
}
