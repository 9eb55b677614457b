//! Histories of a whole host in virtual time, from seeds: no rule may break, and none may differ when
//! it is run again. `SEED=n` runs one of them aloud, `SEEDS=n` so many; `NTH=n`, with `DIES=1` for the
//! death of the front, runs the history in which the n-th operation fails.
mod sim;

use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Canary, Plan, World};

/// Histories in an ordinary run of the tests.
const SEEDS: u64 = 1_000;
/// So often one is run twice, and both must be the same.
const TWICE_EVERY: u64 = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn run(seed: u64) -> u64 {
    let twice = seed.is_multiple_of(TWICE_EVERY);
    let mut world = World::new(seed, Plan::Chance, twice);
    let trace = world.run();
    if twice {
        let again = World::new(seed, Plan::Chance, true).run();
        assert_eq!(trace, again, "SEED={seed}: two runs differ");
    }
    world.streams
}

#[test]
fn no_history_breaks_a_rule() {
    if let Some(seed) = number("SEED") {
        run(seed);
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let (next, streams) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let worker = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return;
                }
                streams.fetch_add(run(seed), Ordering::Relaxed);
            }
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let streams = streams.into_inner();
    assert!(streams >= 4 * seeds, "hardly any stream came about: {streams}");
    println!("{seeds} histories, {streams} streams");
}

/// One client pairs, plays, quits and is removed, and each operation of that fails once; what failed
/// is tried again and must succeed, with nothing left behind.
#[test]
fn whichever_operation_fails_the_client_is_told_and_can_try_again() {
    let plans: [fn(u64) -> Plan; 2] = [Plan::Fails, Plan::FrontDies];
    if let Some(nth) = number("NTH") {
        let plan = plans[usize::from(number("DIES").is_some())](nth);
        World::new(0, plan, false).run();
        return;
    }
    let mut calm = World::new(0, Plan::Fails(0), false);
    calm.run();
    assert_eq!((calm.errors, calm.streams), (0, 1), "nothing fails, nothing is told");
    let count = calm.operations.len() as u64;
    for wanted in ["store", "spawn", "encoder works", "socket to a session", "erase"] {
        assert!(calm.operations.contains(&wanted), "{wanted} is not among {:?}", calm.operations);
    }
    for plan in plans {
        let mut told = 0;
        for nth in 1..=count {
            let mut world = World::new(0, plan(nth), false);
            world.run();
            told += u64::from(world.errors > 0);
        }
        println!(
            "{:?}: {count} operations failed, {told} of them were errors to the client",
            plan(0)
        );
    }
}

fn breaks(canary: Canary) -> String {
    let outcome = std::panic::catch_unwind(|| {
        let mut world = World::new(1, Plan::Chance, false);
        world.canary = Some(canary);
        world.run()
    });
    *outcome.expect_err("the canary must not survive").downcast::<String>().unwrap()
}

#[test]
fn a_rule_that_cannot_hold_is_seen_to_break() {
    let text = breaks(Canary::Safety);
    assert!(text.starts_with("SEED=1 ") && text.contains("canary"), "{text}");
    let text = breaks(Canary::Liveness);
    assert!(
        text.contains("has not come to a stream") && text.contains("replay: SEED=1 "),
        "{text}"
    );
}
