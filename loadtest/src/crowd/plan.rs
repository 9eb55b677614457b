//! Who comes when, how long and how each goes: a pure function of a seed.
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// What a crowd does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// Each comes and goes on its own: idle 1 to 5 s, stream 1 to 10 s, then quit, leave or vanish
    Churn,
    /// All stream; two of five vanish and come back while the others go on
    Drop,
    /// Each takes its own stream over from a second place, twice; its app lives on
    Takeover,
    /// All stream; --restart-command runs; all come back
    Restart,
    /// Each launches, streams for a second and quits, again and again; in a third of the visits the client
    /// vanishes, or an encoder or session of the host on this machine is stopped or killed. Needs
    /// --pin-via-admin
    Soak,
}

/// What is done to the host during a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The encoder stands still: the host must put another in its place.
    StopEncoder,
    KillEncoder,
    /// The client must be told; the app dies with it.
    KillSession,
}

/// How a visit ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Goodbye, and the app is ended.
    Quit,
    /// Goodbye; the app runs on.
    Leave,
    /// Without a word.
    Vanish,
    /// It goes on until the next visit takes it over.
    TakenOver,
}

/// One stream of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    pub idle: Duration,
    pub stream: Duration,
    pub end: End,
    /// The host is disturbed meanwhile: the stream need not live.
    pub may_break: bool,
    pub fault: Option<Fault>,
}

/// When `--restart-command` runs.
pub const RESTART_AFTER: Duration = Duration::from_secs(3);

/// The visits of each client, in order. The last one quits.
pub fn plan(scenario: Scenario, clients: u16, cycles: u16, seed: u64) -> Vec<Vec<Visit>> {
    (0..clients)
        .map(|client| {
            let mut dice = Dice::new(seed, client.into());
            match scenario {
                Scenario::Churn => churn(cycles, &mut dice),
                Scenario::Drop if client % 5 < 2 => {
                    vec![visit(0, 4_000, End::Vanish), visit(2_000, 6_000, End::Quit)]
                }
                Scenario::Drop => vec![visit(0, 12_000, End::Quit)],
                Scenario::Takeover => vec![
                    visit(0, dice.between(1_000, 3_000), End::TakenOver),
                    visit(0, dice.between(1_000, 3_000), End::TakenOver),
                    visit(0, 3_000, End::Quit),
                ],
                Scenario::Soak => soak(cycles, &mut dice),
                Scenario::Restart => {
                    let first = Visit { may_break: true, ..visit(0, 6_000, End::Leave) };
                    vec![first, visit(2_000, 3_000, End::Quit)]
                }
            }
        })
        .collect()
}

fn churn(cycles: u16, dice: &mut Dice) -> Vec<Visit> {
    let one = |number| {
        let (idle, stream) = (dice.between(1_000, 5_000), dice.between(1_000, 10_000));
        let end = match dice.between(0, 9) {
            _ if number == cycles => End::Quit,
            0..=3 => End::Quit,
            4..=6 => End::Leave,
            _ => End::Vanish,
        };
        visit(idle, stream, end)
    };
    (1..=cycles).map(one).collect()
}

fn soak(cycles: u16, dice: &mut Dice) -> Vec<Visit> {
    let one = |number| {
        let (idle, roll) = (dice.between(0, 1_000), dice.between(0, 11));
        let hurt = |fault| Visit { fault: Some(fault), ..visit(idle, 5_000, End::Quit) };
        match roll {
            0 => hurt(Fault::StopEncoder),
            1 => hurt(Fault::KillEncoder),
            2 => hurt(Fault::KillSession),
            3 if number < cycles => visit(idle, 1_000, End::Vanish),
            _ => visit(idle, 1_000, End::Quit),
        }
    };
    (1..=cycles).map(one).collect()
}

fn visit(idle_ms: u64, stream_ms: u64, end: End) -> Visit {
    let (idle, stream) = (Duration::from_millis(idle_ms), Duration::from_millis(stream_ms));
    Visit { idle, stream, end, may_break: false, fault: None }
}

/// Numbers that follow from a seed. Source: Vigna, splitmix64.
pub struct Dice(u64);

impl Dice {
    /// `stream`: numbers of their own for each, of one seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Self(seed ^ stream.wrapping_mul(0xA076_1D64_78BD_642F));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// From `low` to `high`, both among them.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_its_plan_again_and_another_gives_another() {
        let churn = |seed| plan(Scenario::Churn, 5, 20, seed);
        assert_eq!(churn(7), churn(7));
        assert_ne!(churn(7), churn(8));
        let all = churn(7);
        assert_ne!(all[0], all[1], "each client has its own");
        let visits: Vec<_> = all.iter().flatten().collect();
        for end in [End::Quit, End::Leave, End::Vanish] {
            assert!(visits.iter().any(|visit| visit.end == end), "{end:?}");
        }
        let seconds = |from, to| Duration::from_secs(from)..=Duration::from_secs(to);
        assert!(visits.iter().all(|v| seconds(1, 5).contains(&v.idle)));
        assert!(visits.iter().all(|v| seconds(1, 10).contains(&v.stream)));
    }

    #[test]
    fn every_client_of_every_scenario_quits_at_last() {
        for scenario in Scenario::value_variants() {
            for visits in plan(*scenario, 6, 2, 1) {
                assert_eq!(visits.last().unwrap().end, End::Quit, "{scenario:?}");
            }
        }
    }
}
