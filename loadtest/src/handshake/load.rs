//! The load: starts connections by a schedule (open loop) or when another ends (closed loop), on one thread.
//! It makes no report.
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::{Connection, Failure, Step};
use super::poll::Poll;
use crate::census::cpu_seconds;
use crate::figures::numbers::Numbers;

/// Connections in flight; in an open loop later ones wait for their turn, and their wait is counted.
pub const IN_FLIGHT_MAX: usize = 4096;
/// The longest sleep, so that progress is shown.
const SLEEP_MAX: Duration = Duration::from_millis(200);

/// What starts connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many a second, whatever the server does.
    Rate(f64),
    /// So many at once.
    Concurrency(usize),
}

/// One run against one target.
#[derive(Clone)]
pub struct Load {
    pub target: SocketAddr,
    pub config: Arc<ClientConfig>,
    pub request: Vec<u8>,
    pub pace: Pace,
    pub warmup: Duration,
    pub length: Duration,
    /// From the scheduled time to the end of the answer.
    pub timeout: Duration,
    /// The server's process, if its processor time is to be counted.
    pub server_pid: Option<u32>,
}

struct Flight {
    connection: Connection,
    scheduled: Instant,
}

struct Run<'a> {
    load: &'a Load,
    poll: Poll,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Oldest first; all have the same timeout.
    deadlines: VecDeque<(Instant, usize)>,
    next: u64,
    begin: Instant,
    numbers: Numbers,
}

impl Load {
    /// Runs to the end: `warmup` and `length`, and what is in flight then, `timeout` at most. `progress` is
    /// told about once a second. Fails only if the machine gives no epoll.
    pub fn run(&self, progress: &mut dyn FnMut(&Numbers, Duration)) -> io::Result<Numbers> {
        let slots = match self.pace {
            Pace::Rate(_) => IN_FLIGHT_MAX,
            Pace::Concurrency(count) => count.min(IN_FLIGHT_MAX),
        };
        let mut run = Run {
            load: self,
            poll: Poll::new()?,
            flights: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            deadlines: VecDeque::new(),
            next: 0,
            begin: Instant::now(),
            numbers: Numbers::new(self.length),
        };
        let (mut told, mut server) = (run.begin, None);
        let (counted, end) = (run.begin + self.warmup, run.begin + self.warmup + self.length);
        let mut ready = Vec::new();
        let mut server_used = None;
        loop {
            let now = Instant::now();
            if now >= counted && server.is_none() {
                server = Some(self.server_pid.and_then(cpu_seconds));
            }
            if now >= end && server_used.is_none() {
                let used = self.server_pid.and_then(cpu_seconds);
                server_used = Some(used.zip(server.flatten()).map(|(now, then)| now - then));
                run.numbers.answered_by_end = run.numbers.successes();
            }
            run.start_due(now, end);
            run.expire(now);
            if now >= end && run.free.len() == slots && run.scheduled(end).is_none() {
                break;
            }
            run.poll.wait(run.sleep(now, end), &mut ready)?;
            for token in &ready {
                run.advance(usize::try_from(*token).unwrap_or(usize::MAX));
            }
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                progress(&run.numbers, run.begin.elapsed());
            }
        }
        run.numbers.server_cpu_seconds = server_used.flatten();
        Ok(run.numbers)
    }
}

impl Run<'_> {
    /// When the next connection is to start; None: never again.
    fn scheduled(&self, end: Instant) -> Option<Instant> {
        match self.load.pace {
            #[expect(clippy::cast_precision_loss, reason = "2^52 connections are never reached")]
            Pace::Rate(rate) => {
                let at = self.begin + Duration::from_secs_f64(self.next as f64 / rate);
                (at < end).then_some(at)
            }
            Pace::Concurrency(_) => {
                let now = Instant::now();
                (now < end).then_some(now)
            }
        }
    }

    fn start_due(&mut self, now: Instant, end: Instant) {
        let mut budget = self.flights.len();
        while let Some(scheduled) = self.scheduled(end) {
            if scheduled > now && matches!(self.load.pace, Pace::Rate(_)) {
                return;
            }
            // What waited for its turn too long has failed like what waits for its answer too long.
            if now.saturating_duration_since(scheduled) >= self.load.timeout {
                self.next += 1;
                self.fail(scheduled, Failure::Timeout);
                continue;
            }
            if budget == 0 {
                return;
            }
            budget -= 1;
            let Some(slot) = self.free.pop() else { return };
            self.next += 1;
            self.start(slot, scheduled);
        }
    }

    fn start(&mut self, slot: usize, scheduled: Instant) {
        if self.counts(scheduled) {
            self.numbers.late(scheduled.elapsed());
        }
        let started = Connection::start(self.load.target, &self.load.config).and_then(|flight| {
            let token = u64::try_from(slot).unwrap_or(u64::MAX);
            let added = self.poll.add(flight.socket(), token);
            added.map(|()| flight).map_err(|error| Failure::of(&error))
        });
        match started {
            Ok(connection) => {
                self.flights[slot] = Some(Flight { connection, scheduled });
                self.deadlines.push_back((scheduled + self.load.timeout, slot));
            }
            Err(failure) => {
                self.free.push(slot);
                self.fail(scheduled, failure);
            }
        }
    }

    fn advance(&mut self, slot: usize) {
        let Some(flight) = self.flights.get_mut(slot).and_then(Option::as_mut) else { return };
        let step = flight.connection.advance(&self.load.request);
        let scheduled = flight.scheduled;
        match step {
            Step::Waiting => return,
            Step::Done(stages) if self.counts(scheduled) => {
                self.numbers.answered(scheduled, stages)
            }
            Step::Done(_) => {}
            Step::Failed(failure) => self.fail(scheduled, failure),
        }
        self.flights[slot] = None;
        self.free.push(slot);
    }

    fn expire(&mut self, now: Instant) {
        while let Some((deadline, slot)) = self.deadlines.front().copied() {
            let scheduled = self.flights[slot].as_ref().map(|flight| flight.scheduled);
            // The slot may have been used again since.
            let same = scheduled.is_some_and(|at| at + self.load.timeout == deadline);
            if same && deadline > now {
                return;
            }
            self.deadlines.pop_front();
            if same {
                self.flights[slot] = None;
                self.free.push(slot);
                self.fail(deadline - self.load.timeout, Failure::Timeout);
            }
        }
    }

    fn sleep(&self, now: Instant, end: Instant) -> Duration {
        let due = if self.free.is_empty() { None } else { self.scheduled(end) };
        let until = [due, self.deadlines.front().map(|(at, _)| *at), (now < end).then_some(end)];
        let first = until.into_iter().flatten().min().unwrap_or(now);
        first.saturating_duration_since(Instant::now()).min(SLEEP_MAX)
    }

    fn counts(&self, scheduled: Instant) -> bool {
        scheduled >= self.begin + self.load.warmup
    }

    fn fail(&mut self, scheduled: Instant, failure: Failure) {
        if self.counts(scheduled) {
            self.numbers.failed(failure);
        }
    }
}
