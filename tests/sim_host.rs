//! Histories of a whole host in virtual time, from seeds: no rule may break, and none may differ when
//! it is run again. `SEED=n` runs one of them, `SEEDS=n` so many.
mod sim;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn twice(seed: u64) -> u64 {
    let mut world = sim::World::new(seed);
    let trace = world.run();
    assert_eq!(trace, sim::World::new(seed).run(), "SEED={seed}: two runs differ");
    world.streams
}

#[test]
fn no_history_breaks_a_rule() {
    if let Some(seed) = number("SEED") {
        twice(seed);
        return;
    }
    let seeds = number("SEEDS").unwrap_or(100);
    let streams: u64 = (0..seeds).map(twice).sum();
    assert!(streams >= seeds, "hardly any stream came about: {streams}");
}

#[test]
fn a_rule_that_cannot_hold_is_seen_to_break() {
    let outcome = std::panic::catch_unwind(|| {
        let mut world = sim::World::new(1);
        world.canary = true;
        world.run()
    });
    let text = *outcome.expect_err("the canary must not survive").downcast::<String>().unwrap();
    assert!(text.starts_with("SEED=1 ") && text.contains("canary"), "{text}");
}
