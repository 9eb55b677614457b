//! Once warm, a packetizer takes nothing from the heap for a frame or an audio packet.
#![expect(unsafe_code, reason = "a global allocator that counts")]
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use moonshard::proto::audio::{AudioPacketizer, AudioParameters, Encryption};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::video::{Frame, FrameKind, Packetizer, Parameters};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: promised by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(call: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    call();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert!(allocations(|| drop(std::hint::black_box(vec![0u8; 100]))) > 0);
}

#[test]
fn video() {
    for key in [None, Some(SessionKey([1; 16]))] {
        let parameters = Parameters { packet_size: 1392, fec_percent: 20, fec_packets_min: 2, key };
        let mut packetizer = Packetizer::new(&parameters);
        let body = vec![4; 400_000];
        let (mut out, mut counter) = (Vec::new(), 0);
        let mut send = |index: u32, bytes: usize| {
            let frame = Frame {
                index,
                kind: FrameKind::Predicted,
                timestamp: index,
                latency: 0,
                long_term_reference: false,
                head: &[],
                body: &body[..bytes],
            };
            counter += packetizer.packetize(&frame, counter, &mut out).expect("it fits") as u64;
        };
        let sizes = [10, 5_000, 41_000, 300_000, 400_000];
        sizes.iter().for_each(|&bytes| send(1, bytes));
        for (index, bytes) in (2..).zip(sizes.into_iter().cycle().take(100)) {
            assert_eq!(allocations(|| send(index, bytes)), 0);
        }
    }
}

#[test]
fn audio() {
    for encryption in [None, Some(Encryption { key: SessionKey([1; 16]), rikeyid: 1 })] {
        let mut packetizer =
            AudioPacketizer::new(&AudioParameters { packet_ms: 5, encryption }, 0, 0);
        for _ in 0..100 {
            let push = || assert!(packetizer.push(&[7; 320]).expect("it fits").count() > 0);
            assert_eq!(allocations(push), 0);
        }
    }
}
