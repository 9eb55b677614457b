//! Replays what the fuzz targets are made for: the recorded vectors, the corpus, every prefix of both,
//! and as many mutations of them as fit a test, from a fixed seed. Also bounds what a target may hold.
//!
//! `FUZZ_ROUNDS=n` runs n mutations of each target, `FUZZ_TARGET=name` only one target. A failure leaves
//! its input in the directory for temporary files; move it to `tests/corpus` when it is understood.
#![expect(unsafe_code, reason = "a global allocator that counts")]
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use moonshard::fuzz::{TARGETS, Target};

#[path = "fuzz_replay/mutate.rs"]
mod mutate;
#[path = "fuzz_replay/seeds.rs"]
mod seeds;

use mutate::Mutator;

/// Mutations of each target.
const ROUNDS: usize = 5000;
/// Prefixes of one seed; of a long one the shortest and then every so many bytes.
const PREFIXES_MAX: usize = 300;
/// What a target may hold at once beyond a multiple of its input.
const HELD_MAX: usize = 256 * 1024;
/// The ends of the media streams hold a frame, as packets and whole, and the code's matrices.
const FRAME_HELD_MAX: usize = 16 * 1024 * 1024;
/// A byte of input may cost this many: JSON and TOML become trees.
const HELD_PER_BYTE: usize = 100;

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: usize, sign: isize) {
    let held = HELD.get() + sign * bytes.cast_signed();
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, 1);
        count(layout.size(), -1);
        // SAFETY: promised by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that `call` held at once.
fn held(call: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    call();
    (PEAK.get() - before).max(0).cast_unsigned()
}

/// Tells which bytes failed, in the form of a corpus file.
struct Input<'a>(&'a str, &'a [u8]);

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(target, bytes) = self;
            let path = std::env::temp_dir().join(format!("{target}-{}", std::process::id()));
            let kept = std::fs::write(&path, bytes).map(|()| path);
            eprintln!("{target} failed; the input is kept as {kept:?}");
        }
    }
}

fn run((name, body): Target, bytes: &[u8]) {
    let _input = Input(name, bytes);
    let held = held(|| body(bytes));
    let is_media = ["audio", "fec", "video", "sdp"].iter().any(|kind| name.starts_with(kind));
    let fixed = if is_media { FRAME_HELD_MAX } else { HELD_MAX };
    let limit = fixed + HELD_PER_BYTE * bytes.len();
    assert!(held <= limit, "{name} held {held} bytes for an input of {}", bytes.len());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Inputs that once did harm, or that no vector resembles.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(root().join("tests/corpus").join(target)) else {
        return vec![];
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn replay(target: Target, rounds: usize) {
    let seeds = [seeds::of(target.0), corpus(target.0)].concat();
    for seed in &seeds {
        run(target, seed);
        let step = seed.len().div_ceil(PREFIXES_MAX).max(1);
        let short = 0..seed.len().min(PREFIXES_MAX / 2);
        short.chain((0..seed.len()).step_by(step)).for_each(|end| run(target, &seed[..end]));
    }
    let mut mutator = Mutator::new(&seeds);
    (0..rounds).for_each(|_| run(target, mutator.next()));
}

#[test]
fn every_target_stands_its_vectors_prefixes_and_mutations() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("FUZZ_ROUNDS").unwrap_or(ROUNDS);
    let only = std::env::var("FUZZ_TARGET").ok();
    let wanted = |target: &&Target| only.as_deref().is_none_or(|only| only == target.0);
    let targets: Vec<Target> = TARGETS.iter().filter(wanted).copied().collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = std::time::Instant::now();
                    replay(*target, rounds);
                    println!("{}: {:?}", target.0, started.elapsed());
                }
            });
        }
    });
}

/// What the fuzzer starts from: `FUZZ_SEEDS=directory` has the vectors written there.
#[test]
fn every_target_has_seeds() {
    for (name, _) in TARGETS {
        let seeds = seeds::of(name);
        assert!(!seeds.is_empty() || !corpus(name).is_empty(), "{name}");
        let Some(directory) = std::env::var_os("FUZZ_SEEDS") else { continue };
        let directory = Path::new(&directory).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(directory.join(format!("vector-{number}")), seed).unwrap();
        }
    }
}

#[test]
fn the_counter_counts() {
    let twice = held(|| drop(std::hint::black_box([vec![0u8; 1000], vec![0u8; 1000]])));
    assert!((2000..3000).contains(&twice), "{twice}");
    let after_another = held(|| (0..2).for_each(|_| drop(std::hint::black_box(vec![0u8; 1000]))));
    assert!((1000..2000).contains(&after_another), "{after_another}");
}

/// The fuzzer builds one program for each target, and no folder of the corpus is forgotten.
#[test]
fn the_targets_are_the_fuzzers() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let text = std::fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter();
    let programs: Vec<String> =
        programs.map(|program| program["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(programs.iter().cloned().collect::<BTreeSet<_>>(), names);
    assert_eq!(programs.len(), names.len());
    for entry in std::fs::read_dir(root().join("tests/corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "tests/corpus/{name} belongs to no target");
    }
}
