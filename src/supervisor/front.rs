//! The front's process and the link to it. It dies with this process; sessions do not.
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::evidence::{self, is_starved};
use super::sockets::Sockets;
use super::vigil::{Sign, Vigil};
use crate::ipc::{FrontBoot, FrontFigures, FrontOrder, FrontReport, VERSION};
use crate::proc::boot::{self, Spawn};
use crate::proc::child::Child;
use crate::proc::flight::Flight;
use crate::proc::link::{Link, LinkError};
use crate::proc::sheet::Sheet;

/// Orders that wait for a front that does not read its link; more, and it counts as wedged.
const ORDERS_MAX: usize = 1024;
/// A front may start for so many times as long as it may stand still: it loads, and at the first start of
/// all makes the host's key.
const START_STALLS: u32 = 4;
/// A front that is to be replaced may take this long to finish.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// A running front.
pub struct Front {
    pub child: Child,
    pub link: Link,
    pub started: Instant,
    /// It has said that all its shards accept connections.
    pub serving: bool,
    /// The version of its program, once it has said so.
    pub program: String,
    /// It has let go of the listeners for its successor.
    pub yielded: bool,
    /// When it was told to finish.
    pub draining: Option<Instant>,
    killed: bool,
    orders: VecDeque<FrontOrder>,
    /// Where it writes what it has done.
    pub sheet: Arc<Sheet>,
    /// What its threads did last.
    flight: Flight,
    vigil: Vigil,
    /// Time that its main thread had had on a core at the last look, ns.
    ran: u64,
}

impl Front {
    /// Starts one. Call from the thread that lives on: the front dies with it.
    pub fn start(program: &Path, boot: &FrontBoot, sockets: &Sockets) -> io::Result<Self> {
        let (ours, theirs) = Link::pair()?;
        let mut fds = vec![theirs.as_fd()];
        fds.extend(sockets.fds());
        let sheet = Sheet::create()?;
        fds.push(sheet.as_fd());
        let flight = Flight::create()?;
        fds.push(flight.as_fd());
        let how = Spawn {
            kind: "front",
            label: "",
            fds: &fds,
            dies_with_parent: true,
            output: None,
            oom_score_adj: 0,
        };
        let child = boot::spawn_from(program, &how, boot)?;
        let mut front = Self {
            child,
            link: ours,
            started: Instant::now(),
            serving: false,
            program: String::new(),
            yielded: false,
            draining: None,
            killed: false,
            orders: VecDeque::new(),
            sheet: Arc::new(sheet),
            flight,
            vigil: Vigil::default(),
            ran: 0,
        };
        front.order(FrontOrder::Hello { version: VERSION });
        Ok(front)
    }

    /// Sends an order, in turn; it waits here while the link is full.
    pub fn order(&mut self, order: FrontOrder) {
        self.orders.push_back(order);
        self.flush();
    }

    /// Sends what waits. A front that lets too much wait is killed.
    pub fn flush(&mut self) {
        while let Some(order) = self.orders.front() {
            match self.link.send(order, &[]) {
                Ok(()) => {}
                Err(LinkError::Full) => break,
                // It is gone: its end will be noticed, and its successor told afresh.
                Err(LinkError::Closed) => return self.orders.clear(),
                Err(error) => tracing::error!(%error, "an order to the front was lost"),
            }
            self.orders.pop_front();
        }
        if self.orders.len() > ORDERS_MAX {
            tracing::error!("the front does not read its orders: killed");
            self.orders.clear();
            self.kill();
        }
    }

    /// Orders wait for room in the link.
    pub fn is_behind(&self) -> bool {
        !self.orders.is_empty()
    }

    /// The next report that is there. A front that sends nonsense is killed.
    pub fn report(&mut self) -> Option<FrontReport> {
        match self.link.receive::<FrontReport>() {
            Ok((report, _)) => Some(report),
            Err(LinkError::Empty) => None,
            Err(LinkError::Closed) => {
                // Without a link it is of no use. It ends by itself, as a rule; that it is helped to does
                // not make its end this side's will.
                self.child.kill();
                None
            }
            Err(error) => {
                tracing::error!(%error, "the front's report cannot be read: killed");
                self.kill();
                None
            }
        }
    }

    /// Its end was this side's will.
    pub fn was_killed(&self) -> bool {
        self.killed
    }

    /// Ends it now.
    pub fn kill(&mut self) {
        self.killed = true;
        self.child.kill();
    }

    /// Looks at it if a look is due: how long it has given no sign of life. None: not judged now.
    pub fn look(&mut self, now: Instant) -> Option<Duration> {
        if !self.is_watched() || self.vigil.due().is_some_and(|due| now < due) {
            return None;
        }
        let figures: Option<FrontFigures> = self.sheet.read();
        let starved = is_starved(self.child.pid(), &mut self.ran);
        Some(self.vigil.look(Sign { written_ns: figures.map(|f| f.written_ns), starved }, now))
    }

    /// By when it must serve; None: it does, or its end is under way. `stall`: the silence that is too long
    /// of one that serves.
    pub fn start_deadline(&self, stall: Duration) -> Option<Instant> {
        let starts = !self.serving && self.draining.is_none() && !self.killed;
        starts.then(|| self.started + stall * START_STALLS)
    }

    /// When it is to be looked at again.
    pub fn look_due(&self) -> Option<Instant> {
        self.is_watched().then(|| self.vigil.due().unwrap_or(self.started))
    }

    /// It serves and is to go on.
    pub fn is_in_charge(&self) -> bool {
        self.serving && self.draining.is_none() && !self.killed
    }

    /// A front that finishes has a deadline of its own.
    fn is_watched(&self) -> bool {
        self.is_in_charge() && !self.yielded
    }

    /// All that can be said of it without asking it.
    pub fn evidence(&self) -> String {
        let mut text = evidence::threads(self.child.pid()) + &self.flight.text();
        let Some(figures) = self.sheet.read::<FrontFigures>() else { return text };
        let FrontFigures { written_ns, calls_waiting, shards, counters, .. } = figures;
        text += &format!("figures: written_ns={written_ns} calls_waiting={calls_waiting}\n");
        for (shard, s) in shards.iter().enumerate() {
            let (beat, tasks) = (s.beat_ns, s.tasks);
            text += &format!("  shard {shard}: beat_ns={beat} tasks={tasks} panics={}\n", s.panics);
        }
        for counter in counters.iter().filter(|counter| counter.value > 0) {
            text += &format!("  {}={}\n", counter.name, counter.value);
        }
        text
    }

    /// When a front that was told to finish has had its time.
    pub fn drain_deadline(&self) -> Option<Instant> {
        self.draining.filter(|_| !self.killed).map(|since| since + DRAIN_GRACE)
    }

    /// Tells it to finish and to exit.
    pub fn drain(&mut self, now: Instant) {
        if self.draining.is_none() {
            self.draining = Some(now);
            self.order(FrontOrder::Drain);
        }
    }
}

/// When to start the next front: at once after one that ran well, later and later after others.
#[derive(Debug)]
pub struct Backoff {
    wait: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(5);
    /// A front that lived this long ran well.
    const RAN_WELL: Duration = Duration::from_secs(60);

    pub const fn new() -> Self {
        Self { wait: Self::FIRST }
    }

    /// How long to wait after a front that lived `lived`.
    pub fn after(&mut self, lived: Duration) -> Duration {
        if lived >= Self::RAN_WELL {
            self.wait = Self::FIRST;
        }
        let wait = self.wait;
        self.wait = (wait * 2).min(Self::MOST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_to_five_seconds_and_starts_anew_after_a_good_run() {
        let mut backoff = Backoff::new();
        let short = Duration::from_secs(1);
        let waits: Vec<u128> = (0..8).map(|_| backoff.after(short).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.after(Duration::from_secs(60)).as_millis(), 100);
        assert_eq!(backoff.after(short).as_millis(), 200);
    }
}
