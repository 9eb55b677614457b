//! What a crowd has seen: a row a client, one verdict.
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::plan::Scenario;
use crate::census::Holdings;
use crate::play::PlayError;
use crate::report::Report;

/// Reasons that are kept of each client.
const REASONS_MAX: usize = 20;
/// What a host may grow by in a visit, and once by what it learns at first.
const GROWTH_KIB_MAX: u64 = 10;
const GROWTH_ONCE_KIB: u64 = 4096;
/// Threads that a kernel or runtime may start and keep.
const THREADS_MORE: u64 = 2;
/// Between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What became of a visit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Streamed,
    TakenOver,
    /// The host said no, and why.
    Refused(String),
    /// It broke while the host was being disturbed.
    Disturbed(String),
    /// What must not be.
    Broken(String),
}

impl Outcome {
    pub fn of(error: PlayError) -> Self {
        match &error {
            PlayError::Host(host) if host.refusal().is_some() => Self::Refused(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }

    pub fn why(&self) -> Option<String> {
        match self {
            Self::Streamed | Self::TakenOver => None,
            Self::Refused(why) => Some(format!("refused: {why}")),
            Self::Disturbed(why) => Some(format!("disturbed: {why}")),
            Self::Broken(why) => Some(format!("broken: {why}")),
        }
    }
}

/// One client.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    pub streamed: u64,
    pub taken_over: u64,
    pub refused: u64,
    pub disturbed: u64,
    pub broken: u64,
    pub frames: u64,
    pub frames_lost: u64,
    pub foreign_colours: u64,
    pub slowest_first_frame_ms: f64,
    pub longest_freeze_ms: f64,
    pub reasons: Vec<String>,
}

impl Row {
    pub fn add(&mut self, outcome: Outcome, report: Option<&Report>) {
        let count = match &outcome {
            Outcome::Streamed => &mut self.streamed,
            Outcome::TakenOver => &mut self.taken_over,
            Outcome::Refused(_) => &mut self.refused,
            Outcome::Disturbed(_) => &mut self.disturbed,
            Outcome::Broken(_) => &mut self.broken,
        };
        *count += 1;
        self.reasons.extend(outcome.why().filter(|_| self.reasons.len() < REASONS_MAX));
        let Some(report) = report else { return };
        self.frames += report.frames_decoded;
        self.frames_lost += report.frames_lost_after_first_second;
        self.foreign_colours += report.pattern.foreign_colours;
        let first = report.time_to_first_frame_ms.unwrap_or(0.0);
        self.slowest_first_frame_ms = self.slowest_first_frame_ms.max(first);
        self.longest_freeze_ms = self.longest_freeze_ms.max(report.longest_freeze_ms);
    }
}

/// The whole crowd.
#[derive(Clone, Debug, Serialize)]
pub struct CrowdReport {
    pub scenario: Scenario,
    /// The same seed makes the same plan.
    pub seed: u64,
    pub clients: Vec<Row>,
    pub leftovers: Vec<String>,
    /// What the host's processes held, if it is on this machine and was asked.
    pub host_before: Option<Holdings>,
    pub host_after: Option<Holdings>,
    pub clean: bool,
    pub unclean_because: Vec<String>,
}

impl CrowdReport {
    pub fn new(scenario: Scenario, seed: u64, clients: Vec<Row>, leftovers: Vec<String>) -> Self {
        let sum = |of: fn(&Row) -> u64| clients.iter().map(of).sum::<u64>();
        let mut why = Vec::new();
        let (broken, foreign) = (sum(|row| row.broken), sum(|row| row.foreign_colours));
        if broken > 0 {
            why.push(format!("{broken} visits were broken"));
        }
        if foreign > 0 {
            why.push(format!("{foreign} times another's picture or key was seen"));
        }
        if sum(|row| row.streamed) == 0 {
            why.push("nobody streamed".into());
        }
        if !leftovers.is_empty() {
            why.push(format!("{} leftovers", leftovers.len()));
        }
        Self {
            scenario,
            seed,
            clients,
            leftovers,
            host_before: None,
            host_after: None,
            clean: why.is_empty(),
            unclean_because: why,
        }
    }

    /// Holds what the host kept against what it had.
    pub fn judge_growth(&mut self) {
        let Some((before, after)) = self.host_before.zip(self.host_after) else { return };
        let visits = self.clients.iter().map(|row| row.streamed + row.disturbed).sum::<u64>();
        let grown = after.resident_kib.saturating_sub(before.resident_kib);
        if grown > GROWTH_KIB_MAX * visits + GROWTH_ONCE_KIB {
            self.blame(format!("the host grew by {grown} KiB in {visits} visits"));
        }
        if after.files > before.files {
            self.blame(format!("{} files stay open", after.files - before.files));
        }
        if after.threads > before.threads + THREADS_MORE {
            self.blame(format!("{} threads stay", after.threads - before.threads));
        }
    }

    fn blame(&mut self, why: String) {
        self.clean = false;
        self.unclean_because.push(why);
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = format!("{:?}, seed {}\n", self.scenario, self.seed);
        let names = [
            "client",
            "streamed",
            "taken",
            "refused",
            "disturbed",
            "broken",
            "frames",
            "lost",
            "first ms",
            "freeze ms",
        ];
        text += &names.map(|name| format!("{name:>10}")).concat();
        for (number, row) in self.clients.iter().enumerate() {
            let counts = [
                row.streamed,
                row.taken_over,
                row.refused,
                row.disturbed,
                row.broken,
                row.frames,
                row.frames_lost,
            ];
            let counts = counts.map(|count| format!("{count:>10}")).concat();
            let times = [row.slowest_first_frame_ms, row.longest_freeze_ms];
            let times = times.map(|time| format!("{time:>10.0}")).concat();
            text += &format!("\n{number:>10}{counts}{times}");
        }
        text.push('\n');
        for (number, row) in self.clients.iter().enumerate() {
            for reason in &row.reasons {
                text += &format!("  client {number}: {reason}\n");
            }
        }
        if let Some((before, after)) = self.host_before.zip(self.host_after) {
            for (when, held) in [("before", before), ("after", after)] {
                text += &format!(
                    "  host {when}: {} processes, {} threads, {} files, {} KiB\n",
                    held.processes, held.threads, held.files, held.resident_kib
                );
            }
        }
        for left in &self.leftovers {
            text += &format!("  left: {left}\n");
        }
        for reason in &self.unclean_because {
            text += &format!("  not clean: {reason}\n");
        }
        text
    }
}

/// Tells how far it is until `over`.
pub fn show_progress(
    rows: &[Mutex<Row>],
    streaming: &AtomicU16,
    over: &AtomicBool,
    told: &(dyn Fn(String) + Sync),
) {
    let (start, mut next) = (Instant::now(), Instant::now() + TELL_EVERY);
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        if Instant::now() < next {
            continue;
        }
        next += TELL_EVERY;
        let sum = |of: fn(&Row) -> u64| {
            rows.iter().map(|row| of(&row.lock().expect("no client panics"))).sum::<u64>()
        };
        told(format!(
            "{:>4} s: {} stream, {} visits done, {} refused, {} broken",
            start.elapsed().as_secs(),
            streaming.load(Ordering::Relaxed),
            sum(|row| row.streamed + row.taken_over),
            sum(|row| row.refused),
            sum(|row| row.broken)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_clean_only_if_nothing_broke_and_nothing_is_left() {
        let row = |outcome| {
            let mut row = Row::default();
            row.add(Outcome::Streamed, None);
            row.add(outcome, None);
            row
        };
        let clean = |row, left: &[String]| {
            CrowdReport::new(Scenario::Churn, 1, vec![row], left.to_vec()).clean
        };
        assert!(clean(row(Outcome::Refused("All seats are taken".into())), &[]));
        assert!(!clean(row(Outcome::Broken("no frame".into())), &[]));
        assert!(!clean(row(Outcome::Streamed), &["session 1".into()]));
        assert!(!clean(Row::default(), &[]), "nobody streamed");
        let table = CrowdReport::new(Scenario::Churn, 1, vec![row(Outcome::Streamed)], vec![]);
        assert!(table.table().contains("seed 1"));
    }
}
