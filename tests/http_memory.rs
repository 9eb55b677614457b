//! What one hostile request can make the parsers allocate: bounded by the head, whatever it says.
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use moonshard::limits::HTTP_HEAD_BYTES_MAX;
use moonshard::proto::http::{Head, Query};
use moonshard::proto::launch::{LaunchRequest, Verb};
use moonshard::proto::pairing::PairRequest;

/// Counts live bytes and remembers the most there were.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counters touch no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes that `work` had allocated at one time.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    drop(work());
    PEAK.load(Ordering::Relaxed) - before
}

/// The whole way of a request to `/pair` and `/launch`.
fn read(bytes: &[u8]) {
    if let Ok(Some((request, _))) = Head::parse(bytes) {
        _ = PairRequest::parse(&request.query);
        _ = LaunchRequest::parse(Verb::Launch, &request.query);
    }
}

/// One test, so that no other thread allocates meanwhile.
#[test]
fn a_request_costs_less_than_64_kib() {
    let get = |query: &str| format!("GET /pair?{query} HTTP/1.1\r\nHost: h\r\n\r\n");
    let fill = HTTP_HEAD_BYTES_MAX - get("").len();
    let heads = [
        "a".repeat(100 * 1024),
        get(&"a".repeat(100 * 1024)),
        get(&"a=b&".repeat(fill / 4)),
        get(&"a&".repeat(fill / 2)),
        get(&"%41".repeat(fill / 3)),
        get(&format!("uniqueid=1&phrase=getservercert&salt={}", "0".repeat(fill - 60))),
        get(&format!(
            "uniqueid=1&phrase=getservercert&salt={0:032}&clientcert={1}",
            0,
            "2d".repeat(15_000)
        )),
        get(&format!("uniqueid=1&clientpairingsecret={}", "0".repeat(32_000))),
        get(&format!("uniqueid=1&devicename={}&clientchallenge=0", "%e2%82%ac".repeat(3_000))),
        format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000)),
    ];
    for head in heads {
        let cost = peak(|| read(head.as_bytes()));
        assert!(cost < 64 * 1024, "{cost} bytes for {}", &head[..40]);
    }
    assert!(peak(|| Query::parse("a=b")) > 0, "the allocator counts");
}
