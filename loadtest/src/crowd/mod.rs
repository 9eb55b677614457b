//! `play --clients`: many Moonlight clients that come and go by a seeded plan, each with its own identity,
//! and what must hold when all are gone: every visit streamed or was refused with a reason, nobody saw
//! another's picture, nothing is left.
mod faults;
pub mod plan;
pub mod summary;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use self::plan::{End, Fault, RESTART_AFTER, Scenario, Visit, plan};
use self::summary::{CrowdReport, Outcome, Row};
use crate::admin::{host_pid, sessions};
use crate::arguments::Play;
use crate::census::{Process, holdings, tree};
use crate::host::{Host, HostError};
use crate::play::{PlayError, reach, stream};
use crate::report::Report;
use crate::video::{Before, Colours};

/// Everything of a session is gone this long after its client quit.
const LEFTOVER_WAIT: Duration = Duration::from_secs(20);
/// Longer than any next visit takes to come.
const UNTIL_TAKEN_OVER: f64 = 60.0;
/// The tone is demanded of visits of this length.
const TONE_WAIT: Duration = Duration::from_secs(3);
/// The pattern counts at most once a frame; a client's clock starts a little after it.
const COUNTER_SLACK: f64 = 60.0;

/// One client: where it sits, and what it knows of its session.
struct Seat<'a> {
    wanted: &'a Play,
    host: Host,
    app: i32,
    number: u16,
    row: &'a Mutex<Row>,
    streaming: &'a AtomicU16,
}

/// Plays the scenario to its end. `told` gets each event as a line.
pub fn play(wanted: &Play, told: &(dyn Fn(String) + Sync)) -> Result<CrowdReport, PlayError> {
    let clients = wanted.clients.unwrap_or(1);
    let seed = wanted.seed.unwrap_or_else(|| {
        let mut bytes = [0; 4];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
        u32::from_le_bytes(bytes).into()
    });
    if wanted.scenario == Scenario::Soak && !wanted.pin_via_admin {
        return Err(PlayError::NeedsAdmin);
    }
    let visits = plan(wanted.scenario, clients, wanted.cycles, seed);
    told(format!("seed {seed}: {clients} clients, {:?}", wanted.scenario));
    let places: Vec<Play> = (0..clients).map(|number| seat_of(wanted, number)).collect();
    let mut hosts = Vec::new();
    for place in &places {
        // One after the other: a PIN must find its client.
        let host = reach(place)?;
        let app = host.app(&wanted.app)?;
        hosts.push((host, app));
    }
    let root = wanted.pin_via_admin.then(|| host_pid(&wanted.moonshard_program())).transpose();
    let root = root.map_err(HostError::from)?;
    let before = root.map(tree).unwrap_or_default();
    let held_before = root.map(|_| holdings(&before));
    let rows: Vec<Mutex<Row>> = (0..clients).map(|_| Mutex::default()).collect();
    let (streaming, over) = (AtomicU16::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (number, (((host, app), place), (row, visits))) in
            (0_u16..).zip(hosts.into_iter().zip(&places).zip(rows.iter().zip(&visits)))
        {
            let seat = Seat { wanted: place, host, app, number, row, streaming: &streaming };
            running.push(scope.spawn(move || seat.play(visits, told)));
        }
        if wanted.scenario == Scenario::Restart {
            std::thread::sleep(RESTART_AFTER);
            disturb(wanted, told);
        }
        let (rows, streaming, over) = (&rows, &streaming, &over);
        scope.spawn(move || summary::show_progress(rows, streaming, over, told));
        for client in running {
            let _ = client.join();
        }
        over.store(true, Ordering::Relaxed);
    });
    let rows = rows.into_iter().map(|row| row.into_inner().expect("no client panics")).collect();
    let left = root.map(|root| leftovers(&wanted.moonshard_program(), root, &before));
    let left = left.transpose()?.unwrap_or_default();
    let mut report = CrowdReport::new(wanted.scenario, seed, rows, left);
    report.host_before = held_before;
    report.host_after = root.map(|root| holdings(&tree(root)));
    if wanted.scenario == Scenario::Soak {
        report.judge_growth();
    }
    Ok(report)
}

/// A client with an identity, and a key rhythm, of its own.
fn seat_of(wanted: &Play, number: u16) -> Play {
    let mut seat = wanted.clone();
    seat.state = Some(wanted.state_dir().join(format!("client-{number}")));
    // Its own progress line would write over those of the others.
    seat.json = true;
    if wanted.pattern_check {
        seat.input_every = Some(wanted.input_every.unwrap_or(400) + 70 * u64::from(number % 8));
    }
    seat
}

fn disturb(wanted: &Play, told: &(dyn Fn(String) + Sync)) {
    let command = wanted.restart_command.as_deref().unwrap_or("true");
    told(format!("running {command}"));
    let status = std::process::Command::new("sh").args(["-c", command]).status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        told(format!("it fails: {status:?}"));
    }
}

/// What runs on, or is told to run, long after the last client has gone.
fn leftovers(program: &Path, root: u32, before: &[Process]) -> Result<Vec<String>, PlayError> {
    let deadline = Instant::now() + LEFTOVER_WAIT;
    loop {
        let known = |process: &Process| before.iter().any(|old| old.pid == process.pid);
        // A front may have been replaced meanwhile; a session and what is below it may not be there.
        let is_part = |process: &Process| process.command.contains("moonshard front");
        let mut left: Vec<String> = tree(root)
            .into_iter()
            .filter(|process| !known(process) && !is_part(process))
            .map(|process| format!("process {}: {}", process.pid, process.command))
            .collect();
        let sessions = sessions(program).map_err(HostError::from)?;
        left.extend(sessions.iter().map(|session| format!("session {}", session["id"])));
        if left.is_empty() || Instant::now() > deadline {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Seat<'_> {
    fn play(&self, visits: &[Visit], told: &(dyn Fn(String) + Sync)) {
        let mut known = Known::new();
        std::thread::scope(|scope| {
            for visit in visits {
                std::thread::sleep(visit.idle);
                if visit.end != End::TakenOver {
                    self.visit(*visit, &mut known, told);
                    continue;
                }
                // It streams on beside the visits that follow, until the host ends it.
                let mut own = known;
                scope.spawn(move || self.visit(*visit, &mut own, told));
                std::thread::sleep(visit.stream);
                known = Known::on_the_way();
            }
        });
        // Whatever went wrong, nothing of this client is to run on.
        if self.host.running().is_ok_and(|app| app != 0) {
            let _ = self.host.cancel();
        }
    }

    /// One stream, and what became of it.
    fn visit(&self, visit: Visit, known: &mut Known, told: &(dyn Fn(String) + Sync)) {
        let mut wanted = self.wanted.clone();
        wanted.drop = visit.end == End::Vanish;
        wanted.seconds = match visit.end {
            End::TakenOver => UNTIL_TAKEN_OVER,
            _ => visit.stream.as_secs_f64(),
        };
        wanted.tone_check = visit.stream >= TONE_WAIT && visit.fault.is_none();
        wanted.allow_loss |= visit.fault.is_some();
        let resumes = match self.host.running() {
            Ok(app) => app == self.app,
            Err(error) => return self.note(visit, Outcome::of(error.into()), None, told),
        };
        if !resumes {
            *known = Known::new();
        }
        self.streaming.fetch_add(1, Ordering::Relaxed);
        let played = std::thread::scope(|scope| {
            if let Some(fault) = visit.fault {
                let wanted = &wanted;
                scope.spawn(move || {
                    told(format!("client {}: {fault:?}", self.number));
                    let program = wanted.moonshard_program();
                    if let Err(why) = faults::strike(&program, &wanted.state_dir(), fault) {
                        let why = Outcome::Broken(format!("{fault:?}: {why}"));
                        self.note(Visit { may_break: false, ..visit }, why, None, told);
                    }
                });
            }
            stream(&wanted, &self.host, self.app, resumes, wanted.mode, known.before)
        });
        self.streaming.fetch_sub(1, Ordering::Relaxed);
        let (outcome, report) = match played {
            Ok(report) => {
                known.before = report.before;
                (self.judge(visit, known, &report), Some(report))
            }
            Err(error) => (Outcome::of(error), None),
        };
        self.note(visit, outcome, report, told);
        if visit.fault == Some(Fault::KillSession) {
            // Whatever comes next is a new app.
            *known = Known::new();
        } else if visit.end == End::Quit
            && let Err(error) = self.host.cancel()
        {
            self.note(visit, Outcome::Broken(format!("quit: {error}")), None, told);
        }
    }

    fn judge(&self, visit: Visit, known: &Known, report: &Report) -> Outcome {
        if visit.end == End::TakenOver {
            return match report.ended_by_host {
                true => Outcome::TakenOver,
                false => Outcome::Broken("nothing took the stream over".into()),
            };
        }
        if visit.fault == Some(Fault::KillSession) {
            return match report.ended_by_host {
                true => Outcome::Disturbed("its session was killed, and it was told".into()),
                false => Outcome::Broken("its session was killed, and it was not told".into()),
            };
        }
        let counted = f64::from(report.pattern.last.unwrap_or(0));
        let most = known.since.map(|since| {
            since.elapsed().as_secs_f64() * f64::from(self.wanted.mode.fps) * 1.25 + COUNTER_SLACK
        });
        if self.wanted.pattern_check && most.is_some_and(|most| counted > most) {
            return Outcome::Broken(format!(
                "the pattern has counted to {counted}: it is another's, or runs too fast"
            ));
        }
        match report.is_clean() {
            true => Outcome::Streamed,
            false => Outcome::Broken(report.unclean_because.join("; ")),
        }
    }

    fn note(
        &self,
        visit: Visit,
        outcome: Outcome,
        report: Option<Report>,
        told: &(dyn Fn(String) + Sync),
    ) {
        let outcome = match outcome {
            Outcome::Broken(why) if visit.may_break => Outcome::Disturbed(why),
            outcome => outcome,
        };
        if let Some(why) = outcome.why() {
            told(format!("client {}: {why}", self.number));
        }
        self.row.lock().expect("no client panics").add(outcome, report.as_ref());
    }
}

/// What a client knows of its session.
#[derive(Clone, Copy)]
struct Known {
    before: Before,
    /// Before its app began to count; None: another visit started it.
    since: Option<Instant>,
}

impl Known {
    fn new() -> Self {
        let before = Before { colours: Colours::fresh(), counter: None };
        Self { before, since: Some(Instant::now()) }
    }

    /// Another visit is on and presses its keys: the first colour seen is taken.
    fn on_the_way() -> Self {
        Self { before: Before::default(), since: None }
    }
}
