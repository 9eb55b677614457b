//! The flight recorder: what each thread of a process did last, and what it is in, kept outside of it.
//!
//! One memfd of fixed size, sealed against shrinking and growing, made by the process that may have to
//! read it, and mapped by the one that writes. A lane for each thread: what it is in now, and a ring of
//! its newest events. Writing takes no lock, no call of the system and no memory. It can be read when the
//! writer is stopped, hangs, or has died; the reader treats it as hostile and reads it by calls.
#![expect(unsafe_code, reason = "one shared mapping of atomics")]
use std::cell::Cell;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

/// Threads that have a lane of their own; further ones share the last.
const LANES: usize = 24;
/// Events in a lane's ring.
const EVENTS: usize = 63;
/// 64-bit words of an event, and of the head of a lane.
const WORDS: usize = 32;
const LANE_WORDS: usize = WORDS * (EVENTS + 1);
const BYTES: usize = LANES * LANE_WORDS * 8;

// Words of a lane's head.
const THREAD: usize = 0;
const HEAD: usize = 1;
const NAME: usize = 2;
const NAME_WORDS: usize = 2;
const IN_LENGTH: usize = 4;
const IN: usize = 5;
// Words of an event.
const NUMBER: usize = 0;
const TIME: usize = 1;
const LENGTH: usize = 2;
const TEXT: usize = 3;

/// The maker's and reader's end.
#[derive(Debug)]
pub struct Flight {
    memfd: OwnedFd,
}

impl Flight {
    /// An empty one.
    pub fn create() -> io::Result<Self> {
        use rustix::fs::{MemfdFlags, SealFlags};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("flight", flags)?;
        rustix::fs::ftruncate(&memfd, BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { memfd })
    }

    /// All lanes as text: each thread with what it is in, then its events, the oldest first.
    pub fn text(&self) -> String {
        let mut bytes = vec![0; BYTES];
        let got = rustix::io::pread(&self.memfd, &mut bytes[..], 0).unwrap_or(0);
        bytes.truncate(got);
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|b| b.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b)))
            .collect();
        let mut text = String::new();
        for lane in words.chunks_exact(LANE_WORDS).filter(|lane| lane[THREAD] != 0) {
            let name = read(&lane[NAME..NAME + NAME_WORDS], 16);
            let within = read(&lane[IN..WORDS], lane[IN_LENGTH]);
            let _ = writeln!(text, "lane {} {name} in [{within}]", lane[THREAD]);
            let mut events: Vec<&[u64]> =
                lane[WORDS..].chunks_exact(WORDS).filter(|event| event[NUMBER] != 0).collect();
            events.sort_by_key(|event| event[NUMBER]);
            for event in events {
                let (s, us) = (event[TIME] / 1_000_000_000, event[TIME] / 1_000 % 1_000_000);
                let _ = writeln!(text, "  {s}.{us:06} {}", read(&event[TEXT..], event[LENGTH]));
            }
        }
        text
    }
}

impl AsFd for Flight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

/// Text of at most `length` bytes out of words, without what would confuse a terminal.
fn read(words: &[u64], length: u64) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let end = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    text.chars().filter(|c| !c.is_control()).collect()
}

/// The writer's mapping, for the life of the process.
static WRITER: OnceLock<&'static [AtomicU64]> = OnceLock::new();
/// Lanes given out.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static LANE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// From now on this process records there. Once; a second call changes nothing.
///
/// # Errors
/// If it is not a recorder's memory, or cannot be mapped.
pub fn begin(memfd: &OwnedFd) -> io::Result<()> {
    use rustix::fs::SealFlags;
    let seals = rustix::fs::fcntl_get_seals(memfd)?;
    let size = rustix::fs::fstat(memfd)?.st_size;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) || size != BYTES as i64 {
        return Err(io::Error::other("the recorder's memory is not sealed or has a wrong size"));
    }
    // SAFETY: a fresh shared mapping of a sealed memfd that is BYTES long; it is never unmapped, is
    // page-aligned, and is only reached as atomics.
    let words = unsafe {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        let map = rustix::mm::mmap(std::ptr::null_mut(), BYTES, flags, MapFlags::SHARED, memfd, 0)?;
        std::slice::from_raw_parts(map.cast::<AtomicU64>(), BYTES / 8)
    };
    let _ = WRITER.set(words);
    Ok(())
}

/// Whether anything is recorded in this process.
pub fn is_on() -> bool {
    WRITER.get().is_some()
}

/// Records an event of the calling thread.
pub fn note(text: &str) {
    let Some(lane) = own_lane() else { return };
    let number = lane[HEAD].fetch_add(1, Ordering::Relaxed) + 1;
    let at = WORDS * (1 + (number % EVENTS as u64) as usize);
    let event = &lane[at..at + WORDS];
    event[NUMBER].store(0, Ordering::Release);
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let ns = t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs();
    event[TIME].store(ns, Ordering::Relaxed);
    event[LENGTH].store(write(&event[TEXT..], text), Ordering::Relaxed);
    event[NUMBER].store(number, Ordering::Release);
}

/// The calling thread is in something now; empty: in nothing.
pub fn enter(text: &str) {
    let Some(lane) = own_lane() else { return };
    lane[IN_LENGTH].store(0, Ordering::Relaxed);
    let length = write(&lane[IN..WORDS], text);
    lane[IN_LENGTH].store(length, Ordering::Relaxed);
}

/// What a thread of this process is in; None: it has recorded nothing yet.
pub fn within(thread: i32) -> Option<String> {
    let words = WRITER.get()?;
    let is_its = |lane: &&[AtomicU64]| {
        lane[THREAD].load(Ordering::Relaxed) == u64::from(thread.unsigned_abs())
    };
    let lane = words.chunks_exact(LANE_WORDS).find(is_its)?;
    let text: Vec<u64> = lane[IN..WORDS].iter().map(|word| word.load(Ordering::Relaxed)).collect();
    Some(read(&text, lane[IN_LENGTH].load(Ordering::Relaxed)))
}

fn own_lane() -> Option<&'static [AtomicU64]> {
    let words = WRITER.get()?;
    let index = LANE.try_with(|lane| match lane.get() {
        Some(index) => index,
        None => {
            let index = TAKEN.fetch_add(1, Ordering::Relaxed).min(LANES - 1);
            lane.set(Some(index));
            let head = &words[index * LANE_WORDS..][..WORDS];
            let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            head[THREAD].store(u64::from(thread), Ordering::Relaxed);
            let current = std::thread::current();
            write(&head[NAME..NAME + NAME_WORDS], current.name().unwrap_or("?"));
            index
        }
    });
    let index = index.ok()?;
    Some(&words[index * LANE_WORDS..][..LANE_WORDS])
}

/// Puts as much of a text into words as they hold; how many bytes that was.
fn write(words: &[AtomicU64], text: &str) -> u64 {
    let bytes = &text.as_bytes()[..text.len().min(words.len() * 8)];
    for (word, part) in words.iter().zip(bytes.chunks(8)) {
        word.store(part.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b)), Ordering::Relaxed);
    }
    bytes.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_of_each_thread_are_read_by_another_end() {
        let flight = Flight::create().unwrap();
        assert_eq!(flight.text(), "");
        begin(&flight.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let work = || {
            (0..200).for_each(|n| note(&format!("event {n}\x1b")));
            note(&"x".repeat(1000));
            enter("conn 192.0.2.7");
            within(rustix::thread::gettid().as_raw_nonzero().get())
        };
        let worker = std::thread::Builder::new().name("worker".into()).spawn(work).unwrap();
        assert_eq!(worker.join().unwrap().as_deref(), Some("conn 192.0.2.7"));
        let text = flight.text();
        let lane = text.split("lane ").find(|lane| lane.contains("worker")).unwrap();
        assert!(lane.contains("in [conn 192.0.2.7]"), "{lane}");
        assert_eq!(lane.lines().count(), 1 + EVENTS);
        assert!(lane.contains(" event 199\n") && !lane.contains("event 100"), "{lane}");
        assert!(lane.lines().last().unwrap().ends_with(&"x".repeat(8 * (WORDS - TEXT))), "{lane}");
        // What a dying writer leaves is read without trust.
        rustix::io::pwrite(&flight, &[0xff; BYTES], 0).unwrap();
        assert!(flight.text().len() < 8 * BYTES);
        assert!(begin(&std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }
}
