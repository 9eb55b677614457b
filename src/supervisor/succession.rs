//! One front follows another without a gap: after a reload, and at an upgrade to the program on disk.
//!
//! The heir prepares while the front in charge serves; that one lets go at a calm moment and finishes
//! what it has begun; the heir asks the sessions who they are and accepts. Connections that come in
//! between wait in the listeners' queues for a few milliseconds. Whatever goes wrong before the front in
//! charge has let go leaves it in charge.
use std::time::{Duration, Instant};

use super::front::Front;
use super::image::Image;
use super::run::{Role, Supervisor};
use crate::config::Config;
use crate::ipc::{AdminAnswer, AdminRequest, FrontBoot, FrontOrder};

/// How long a front may take to prepare.
const PREPARE_MAX: Duration = Duration::from_secs(10);
/// How long the front in charge may take to let go; it waits ten seconds for a calm moment.
const YIELD_MAX: Duration = Duration::from_secs(13);
/// How long the heir may take from there to its first connection.
const SERVE_MAX: Duration = Duration::from_secs(5);
/// An upgrade is answered after so long at most.
pub const UPGRADE_MAX: Duration =
    PREPARE_MAX.saturating_add(YIELD_MAX).saturating_add(SERVE_MAX).saturating_add(SERVE_MAX);

/// Why a front is to follow another.
pub enum Cause {
    /// The configuration has changed; it was `before`.
    Reload { before: Box<Config> },
    /// The program has changed to `image`; a visitor waits for the outcome, or nobody does.
    Upgrade { image: Image, visitor: Option<u64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Preparing,
    /// The heir is prepared; the front in charge was told to let go.
    Yielding,
    /// The front in charge has let go, or is gone; the heir was told to serve.
    Taking,
}

/// A front that is to follow the one in charge.
pub struct Succession {
    pub heir: Front,
    cause: Cause,
    stage: Stage,
    deadline: Instant,
    /// Why the heir ends, if it has said so.
    reason: Option<String>,
    /// Questions that neither of the two fronts should answer now.
    held: Vec<(u64, AdminRequest)>,
}

impl Succession {
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The heir knows, or is about to ask, which sessions run: what happens to them concerns it.
    pub fn is_taking(&self) -> bool {
        self.stage == Stage::Taking
    }

    /// What the heir says of its own end.
    pub fn fails(&mut self, reason: String) {
        self.reason = Some(reason);
    }

    /// Keeps a question for the heir.
    pub fn hold(&mut self, id: u64, request: AdminRequest) {
        self.held.push((id, request));
    }
}

impl Supervisor {
    /// Goes over to the program that is on disk now.
    pub(super) fn upgrade(&mut self, visitor: Option<u64>) {
        let started = || -> Result<(), String> {
            let shown = self.program.display();
            let image = Image::at(&self.program).map_err(|e| format!("{shown}: {e}"))?;
            let boot = FrontBoot { succeeds: true, ..self.boot.clone() };
            self.succeed(Cause::Upgrade { image, visitor }, &boot)
        }();
        match (started, visitor) {
            (Ok(()), Some(id)) => self.admin.be_patient(id, Instant::now() + UPGRADE_MAX),
            (Ok(()), None) => {}
            (Err(reason), _) => self.not_upgraded(visitor, &reason),
        }
    }

    /// Starts a front that is to follow the one in charge.
    ///
    /// # Errors
    /// In words. Nothing has changed then.
    pub(super) fn succeed(&mut self, cause: Cause, boot: &FrontBoot) -> Result<(), String> {
        if self.stop.is_some() {
            return Err("the host is being stopped".to_owned());
        }
        if self.succession.is_some() || self.leaving.is_some() {
            return Err(
                "the front is being replaced already: try again in a few seconds".to_owned()
            );
        }
        if !self.front.as_ref().is_some_and(Front::is_in_charge) {
            return Err("no front serves at the moment: try again in a few seconds".to_owned());
        }
        let image = match &cause {
            Cause::Upgrade { image, .. } => image,
            Cause::Reload { .. } => &self.image,
        };
        let heir = Front::start(image.path(), boot, &self.sockets)
            .map_err(|error| format!("the new program cannot be started: {error}"))?;
        tracing::info!(pid = heir.child.pid(), "a front prepares to follow");
        self.succession = Some(Succession {
            heir,
            cause,
            stage: Stage::Preparing,
            deadline: Instant::now() + PREPARE_MAX,
            reason: None,
            held: Vec::new(),
        });
        Ok(())
    }

    /// The heir could serve: the front in charge is to let go.
    pub(super) fn heir_prepared(&mut self) {
        let Some(succession) = &mut self.succession else { return };
        if succession.stage != Stage::Preparing {
            return;
        }
        succession.stage = Stage::Yielding;
        succession.deadline = Instant::now() + YIELD_MAX;
        match &mut self.front {
            Some(front) => front.order(FrontOrder::Yield),
            None => self.take_over(),
        }
    }

    /// The front in charge has let go, or is gone: the heir's turn, if it is prepared.
    pub(super) fn take_over(&mut self) {
        let Some(succession) = self.succession.as_mut().filter(|s| s.stage == Stage::Yielding)
        else {
            return;
        };
        succession.stage = Stage::Taking;
        succession.deadline = Instant::now() + SERVE_MAX;
        succession.heir.order(FrontOrder::Serve);
    }

    /// The heir serves, and is in charge from now on.
    pub(super) fn heir_serves(&mut self) {
        let Some(Succession { mut heir, cause, held, .. }) = self.succession.take() else { return };
        heir.serving = true;
        let (pid, program) = (heir.child.pid(), heir.program.clone());
        self.leaving = self.front.replace(heir);
        if let Some(leaving) = &mut self.leaving {
            leaving.drain(Instant::now());
        }
        self.board.note(|known| known.front_starts += 1);
        self.show_front();
        match cause {
            Cause::Reload { .. } => {
                self.words.reloaded();
                let seats = self.boot.config.limits.sessions;
                self.board.note(|known| known.seats = seats);
            }
            Cause::Upgrade { image, visitor } => {
                self.fallback = Some(std::mem::replace(&mut self.image, image));
                let text = format!(
                    "The front now is version {program} (pid {pid}). Sessions that start from now on are, \
                     too; those that run stay what they are, and so does the supervisor: version {}.",
                    env!("CARGO_PKG_VERSION")
                );
                self.words.upgraded(&text);
                if let Some(id) = visitor {
                    self.admin.answer(id, &AdminAnswer::Done(text));
                }
            }
        }
        for (id, request) in held {
            self.tell_front(FrontOrder::Admin { id, request });
        }
        if std::mem::take(&mut self.reload_again) {
            self.reload();
        }
    }

    /// The heir has ended.
    pub(super) fn heir_ended(&mut self) {
        let Some(succession) = &mut self.succession else { return };
        let Some(exit) = succession.heir.child.try_reap() else { return };
        // Its last words may still be in the link.
        while let Some(report) = succession.heir.report() {
            if let crate::ipc::FrontReport::Failed { reason } = report {
                succession.reason = Some(reason);
            }
        }
        let reason = match succession.reason.take() {
            Some(reason) => format!("the new front does not start: {reason}"),
            None => format!("the new front does not start: {exit}; the host's log may tell more"),
        };
        self.give_up_succession(&reason);
    }

    /// A stage has lasted too long.
    pub(super) fn hurry_succession(&mut self, now: Instant) {
        let Some(succession) = self.succession.as_ref().filter(|s| s.deadline <= now) else {
            return;
        };
        match succession.stage {
            Stage::Preparing => {
                let seconds = PREPARE_MAX.as_secs();
                self.give_up_succession(&format!("the new front is not ready after {seconds} s"));
            }
            // Not the heir's fault: it goes on when this one is gone.
            Stage::Yielding => match &mut self.front {
                Some(front) => {
                    let pid = front.child.pid();
                    self.evidence.keep("front", pid, "does not let go: killed", &front.evidence());
                    tracing::error!(pid, "the front does not let go: killed");
                    front.kill();
                    self.take_over();
                }
                None => self.take_over(),
            },
            Stage::Taking => self.give_up_succession("the new front does not serve"),
        }
    }

    /// The heir is not to be: whoever is in charge stays, and if nobody is, another is started at once.
    pub(super) fn give_up_succession(&mut self, reason: &str) {
        let Some(Succession { heir, cause, stage, held, .. }) = self.succession.take() else {
            return;
        };
        if stage == Stage::Preparing && heir.child.was_reaped() {
            tracing::warn!(reason, "the front in charge stays");
        } else {
            let pid = heir.child.pid();
            self.evidence.keep("front", pid, reason, &heir.evidence());
        }
        drop(heir);
        match cause {
            Cause::Reload { before } => {
                self.boot.config = *before;
                self.words.not_reloaded(reason);
            }
            Cause::Upgrade { visitor, .. } => self.not_upgraded(visitor, reason),
        }
        self.reload_again = false;
        for (id, _) in held {
            let words = "the front is being restarted: try again in a few seconds";
            self.admin.answer(id, &AdminAnswer::Error(words.to_owned()));
        }
        if stage == Stage::Taking && self.stop.is_none() {
            self.leaving = self.front.take();
            if let Some(leaving) = &mut self.leaving {
                leaving.drain(Instant::now());
            }
            self.start_front();
        } else if self.front.is_none() && self.stop.is_none() {
            self.start_front();
        }
    }

    fn not_upgraded(&mut self, visitor: Option<u64>, reason: &str) {
        self.words.not_upgraded(reason);
        if let Some(id) = visitor {
            self.admin.answer(id, &AdminAnswer::Error(format!("not upgraded: {reason}")));
        }
    }

    /// The front that was in charge has finished.
    pub(super) fn leaver_ended(&mut self) {
        let exit = self.leaving.as_mut().and_then(|front| front.child.try_reap());
        let Some((exit, mut leaving)) = exit.zip(self.leaving.take_if(|f| f.child.was_reaped()))
        else {
            return;
        };
        tracing::info!(%exit, "the front that was in charge has ended");
        while let Some(report) = leaving.report() {
            self.obey(Role::Leaving, report);
        }
    }
}
