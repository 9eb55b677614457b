//! Sessions, their encoders, and the links between them and the front.
use std::time::Duration;

use moonshard::host::client_id;
use moonshard::host::event::Event;
use moonshard::ipc::{FromSession, SessionId, SessionSpec, ToSession};
use moonshard::proto::stream::Flow;
use moonshard::session::life::{self, Life, Pulse};
use moonshard::time::Time;

use super::{Canary, Happening, Plan, World, local, ms};

pub struct Process {
    pub life: Life,
    /// When the last message on each direction of its link arrives: a link keeps its order.
    last_up: Time,
    last_down: Time,
    /// Count its links; what is on its way over a broken one is lost. What a front said before it died
    /// is heard all the same.
    epoch: u64,
    epoch_down: u64,
    linked: bool,
    /// Counts its encoders.
    pub encoder: u64,
}

impl World {
    pub fn spawn(&mut self, spec: SessionSpec) {
        let session = spec.id;
        if self.fails("spawn", 12) {
            let result = Err("fork failed".into());
            return self.host_hears(30, Event::SessionSpawned { session, result });
        }
        let now = self.now;
        let process = Process {
            life: Life::new(spec, now),
            last_up: now,
            last_down: now,
            epoch: 0,
            epoch_down: 0,
            linked: false,
            encoder: 0,
        };
        self.processes.insert(session, process);
        self.host_hears(30, Event::SessionSpawned { session, result: Ok(()) });
        self.introduce(session);
        let word = |event| Happening::Life(session, Box::new(event));
        if self.fails("start", 15) {
            self.soon(400, word(life::Event::StartFailed { reason: "no display".into() }));
        } else if !self.fails("come up", 20) {
            self.soon(400, word(life::Event::Started));
        }
        if self.fault(6) {
            self.soon(40_000, Happening::SessionDies(session));
        }
        if self.fault(8) {
            let (status, last_words) = ("exit 1".into(), "bye".into());
            self.soon(60_000, word(life::Event::AppExited { status, last_words }));
        }
    }

    // --- links ----------------------------------------------------------------------------------

    pub fn linked(&self, session: SessionId, epoch: u64) -> bool {
        self.processes.get(&session).is_some_and(|p| p.linked && p.epoch == epoch)
    }

    pub fn hears(&self, session: SessionId, epoch: u64) -> bool {
        self.processes.get(&session).is_some_and(|p| p.epoch_down == epoch)
    }

    /// The link is connected: the session says who it is.
    pub fn introduce(&mut self, session: SessionId) {
        let Some(process) = self.processes.get_mut(&session) else { return };
        process.linked = true;
        process.last_up = process.last_up.max(self.now);
        process.last_down = process.last_down.max(self.now);
        let message = process.life.identity(7);
        self.up(session, message);
    }

    /// Both directions lose what is on its way; another link is connected in a moment.
    fn break_link(&mut self, session: SessionId, within_ms: u64) {
        if let Some(process) = self.processes.get_mut(&session) {
            process.epoch_down += 1;
            process.last_down = self.now;
        }
        self.cut_link(session, within_ms);
    }

    /// Nobody hears what the session says, until another link is connected.
    pub fn cut_link(&mut self, session: SessionId, within_ms: u64) {
        let Some(process) = self.processes.get_mut(&session) else { return };
        process.linked = false;
        process.epoch += 1;
        process.last_up = self.now;
        self.soon(within_ms, Happening::Relink(session));
    }

    /// How long a message travels; now and then the link stands still.
    fn delay(&mut self) -> Duration {
        let stalls = self.fault(60);
        let most = if stalls { 2_000_000 } else { 20_000 };
        Duration::from_micros(1 + self.schedule.below(most))
    }

    pub fn send(&mut self, session: SessionId, message: ToSession) {
        self.learn_grant(session, &message);
        if self.fails("message to a session", 50) {
            return match self.faults_are_deaf() {
                true => self.host_hears(5, Event::SessionDeaf { session }),
                false => self.break_link(session, 900),
            };
        }
        let delay = self.delay();
        let Some(process) = self.processes.get_mut(&session).filter(|p| p.linked) else { return };
        process.last_down = process.last_down.max(self.now + delay);
        let (when, epoch) = (process.last_down, process.epoch_down);
        self.at(when, Happening::Down(session, epoch, Box::new(message)));
    }

    fn faults_are_deaf(&mut self) -> bool {
        self.plan == Plan::Chance && self.fault(2)
    }

    /// The client that the session belongs to gets to know which viewer it will be.
    fn learn_grant(&mut self, session: SessionId, message: &ToSession) {
        let ToSession::Grant(grant) = message else { return };
        if !self.grants.insert((grant.ping_payload.clone(), grant.connect_data)) {
            self.broken("two grants share their secrets");
        }
        let Some(process) = self.processes.get(&session) else { return };
        let FromSession::Identity { spec, .. } = process.life.identity(1) else { return };
        let own = self.players.iter_mut().find(|p| client_id(&p.certificate) == spec.client);
        if let Some(player) = own {
            player.grant = Some(grant.clone());
        }
    }

    fn up(&mut self, session: SessionId, message: FromSession) {
        let identity = matches!(message, FromSession::Identity { .. });
        if !identity && self.fails("message of a session", 90) {
            return self.break_link(session, 900);
        }
        let delay = self.delay();
        let Some(process) = self.processes.get_mut(&session).filter(|p| p.linked) else { return };
        process.last_up = process.last_up.max(self.now + delay);
        let (when, epoch) = (process.last_up, process.epoch);
        self.at(when, Happening::Up(session, epoch, Box::new(message)));
    }

    // --- lives ----------------------------------------------------------------------------------

    pub fn tell_life(&mut self, id: SessionId, event: life::Event) {
        self.note(&(id, &event));
        // What its composition answers by itself.
        match &event {
            life::Event::Front(ToSession::AskFigures) if !self.fault(4) => {
                let figures = Default::default();
                self.up(id, FromSession::Figures { figures });
            }
            life::Event::Front(ToSession::AskLog) if !self.fault(4) => {
                self.up(id, FromSession::Log { text: "log".into() });
            }
            _ => {}
        }
        let Some(process) = self.processes.get_mut(&id) else { return };
        let mut effects = Vec::new();
        process.life.handle(event, self.now, &mut effects);
        for effect in effects {
            self.life_did(id, effect);
        }
    }

    fn life_did(&mut self, id: SessionId, effect: life::Effect) {
        use life::Effect as Did;
        if !self.processes.contains_key(&id) {
            return;
        }
        match effect {
            Did::Tell(message) => self.up(id, message),
            Did::StartEncoder { .. } => self.start_encoder(id),
            Did::KillEncoder | Did::StopEncoder => {
                self.processes.get_mut(&id).unwrap().encoder += 1;
            }
            Did::UseSocket { viewer, flow: Flow::Control } => {
                let of = |p: &super::Player| p.grant.as_ref().is_some_and(|g| g.viewer == viewer);
                let Some(player) = self.players.iter().position(of) else { return };
                if self.players[player].streaming == Some((id, viewer)) {
                    // A moved flow: the connection goes on.
                    return;
                }
                let peer = self.source(player);
                let (local, last_will) = (local(47_999), vec![1]);
                let event = life::Event::ControlConnected { viewer, local, peer, last_will };
                self.soon(100, Happening::Life(id, Box::new(event)));
                self.players[player].streaming = Some((id, viewer));
                self.players[player].played = true;
                self.streams += 1;
                self.soon(1_000, Happening::Talk(player, viewer));
            }
            Did::EndApp if !self.fails("end of the app", 4) => {
                self.soon(500, Happening::Life(id, Box::new(life::Event::AppGone)));
            }
            Did::KillApp => self.soon(100, Happening::Life(id, Box::new(life::Event::AppGone))),
            Did::Exit => self.session_ends(id, "exit 0"),
            _ => {}
        }
    }

    /// It gets ready, or dies, or hangs: before it is ready, or after.
    fn start_encoder(&mut self, id: SessionId) {
        let process = self.processes.get_mut(&id).unwrap();
        process.encoder += 1;
        let number = process.encoder;
        let word = |event| Happening::Encoder(id, number, Box::new(event));
        let exit = life::Event::EncoderExited { status: "signal 6".into() };
        let barren = self.canary == Some(Canary::Liveness) && !self.faulty;
        if barren || self.fails("encoder gets ready", 12) {
            return;
        }
        if self.fails("encoder starts", 10) {
            return self.soon(200, word(exit));
        }
        self.soon(300, word(life::Event::EncoderReady));
        if self.fails("encoder lives", 6) {
            self.soon(20_000, word(exit));
        }
        if self.fails("encoder works", 6) {
            let hung =
                Pulse { silent: ms(1_500), frames_in: 9, frames_out: 3, sent: Default::default() };
            self.soon(20_000, word(life::Event::EncoderPulse(hung)));
        }
    }

    pub fn session_ends(&mut self, session: SessionId, status: &str) {
        if self.processes.remove(&session).is_some() {
            let (status, last_words) = (status.to_owned(), "gone".to_owned());
            self.host_hears(20, Event::SessionExited { session, status, last_words });
            for player in &mut self.players {
                player.streaming.take_if(|(its, _)| *its == session);
            }
        }
    }
}
