//! A viewer's shared page: counters that survive an encoder's death, its heartbeat, its figures.
//!
//! One memfd of fixed size, sealed against shrinking and growing, mapped by the session (which makes
//! it) and by each encoder of that viewer in turn. All of it is atomics. A reader treats what it
//! reads as hostile: a dying encoder may leave anything but the counters' order.
//!
//! Counters are (epoch, next) in one word. An encoder reserves under the epoch it was started with;
//! the session raises the epoch before it starts another, so a killed encoder that still runs cannot
//! take a number that its successor takes: no IV is used twice, no sequence number repeats.
#![expect(unsafe_code, reason = "one shared mapping of atomics")]
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use super::histogram::Histogram;

/// Bytes of the page.
const PAGE_BYTES: usize = 4096;
/// The low bits of a counter word are `next`, the rest the epoch.
const NEXT_BITS: u32 = 48;
const NEXT_MASK: u64 = (1 << NEXT_BITS) - 1;

/// The layout in memory. Only ever extended at the end.
#[repr(C)]
struct Layout {
    /// (epoch, next) of packets: RTP sequence, stream packet index and GCM counter are its low bits.
    packets: AtomicU64,
    /// (epoch, next) of frames; the first frame is 1.
    frames: AtomicU64,
    /// CLOCK_MONOTONIC ns of the encoder's last sign of life.
    heartbeat_ns: AtomicU64,
    figures: [AtomicU64; FIGURES],
    times: [Histogram; TIMES],
}

/// Figures that an encoder keeps; each only ever grows, except gauges, which say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Figure {
    FramesReceived,
    FramesEncoded,
    FramesSent,
    FramesDropped,
    KeyFrames,
    PacketsSent,
    BytesSent,
    SendErrors,
    /// Sum over frames of capture to last datagram, us.
    LatencySumUs,
    /// Gauge: the newest of them, us.
    LatencyLastUs,
    /// Of `PacketsSent`, in frames that were sent whole.
    ParitySent,
    /// Why frames were dropped; together they are `FramesDropped`. In the queue, by a newer one.
    DroppedOvertaken,
    /// By the encoder itself.
    DroppedSwallowed,
    /// No socket has come yet.
    DroppedNoSocket,
    /// A key frame is awaited.
    DroppedAwaitsKey,
    /// More packets than a frame may have.
    DroppedTooLarge,
    /// The socket did not take all of it in time.
    DroppedLate,
    /// The system refused to send.
    DroppedSystem,
}

const FIGURES: usize = 32;

impl Figure {
    pub const ALL: [(Self, &str); 18] = [
        (Self::FramesReceived, "frames_received"),
        (Self::FramesEncoded, "frames_encoded"),
        (Self::FramesSent, "frames_sent"),
        (Self::FramesDropped, "frames_dropped"),
        (Self::KeyFrames, "key_frames"),
        (Self::PacketsSent, "packets_sent"),
        (Self::BytesSent, "bytes_sent"),
        (Self::SendErrors, "send_errors"),
        (Self::LatencySumUs, "latency_sum_us"),
        (Self::LatencyLastUs, "latency_last_us"),
        (Self::ParitySent, "parity_sent"),
        (Self::DroppedOvertaken, "dropped_overtaken"),
        (Self::DroppedSwallowed, "dropped_swallowed"),
        (Self::DroppedNoSocket, "dropped_no_socket"),
        (Self::DroppedAwaitsKey, "dropped_awaits_key"),
        (Self::DroppedTooLarge, "dropped_too_large"),
        (Self::DroppedLate, "dropped_late"),
        (Self::DroppedSystem, "dropped_system"),
    ];
}

/// The stages of a frame's way through the encoder's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Stage {
    /// From drawn to encoded, waiting included.
    Encode,
    /// From encoded to packets with parity, sealed.
    Packetize,
    /// From packets to the last datagram being with the kernel, pacing included.
    Send,
    /// From drawn to the last datagram.
    Total,
}

const TIMES: usize = 8;

impl Stage {
    pub const ALL: [(Self, &str, &str); 4] = [
        (Self::Encode, "encode", "From drawn to encoded"),
        (Self::Packetize, "packetize", "From encoded to sealed packets"),
        (Self::Send, "send", "From packets to the last datagram"),
        (Self::Total, "total", "From drawn to the last datagram"),
    ];
}

/// The epoch was raised: this encoder was replaced and must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this encoder was replaced")]
pub struct Replaced;

/// One mapping of a viewer's page.
pub struct ViewerPage {
    memfd: OwnedFd,
    map: NonNull<Layout>,
}

// SAFETY: the mapping is only reached through atomics and lives as long as this value.
unsafe impl Send for ViewerPage {}
// SAFETY: as above.
unsafe impl Sync for ViewerPage {}

impl ViewerPage {
    /// A new page: packets from 0, frames from 1, epoch 0.
    pub fn create() -> io::Result<Self> {
        use rustix::fs::{MemfdFlags, SealFlags};
        let memfd =
            rustix::fs::memfd_create("viewer", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memfd, PAGE_BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let page = Self::map(memfd)?;
        page.layout().frames.store(1, Ordering::Release);
        Ok(page)
    }

    /// Maps a page that another process made.
    ///
    /// # Errors
    /// If it is not sealed or has another size: its maker could end this process by shrinking it.
    pub fn open(memfd: OwnedFd) -> io::Result<Self> {
        use rustix::fs::SealFlags;
        let seals = rustix::fs::fcntl_get_seals(&memfd)?;
        let size = rustix::fs::fstat(&memfd)?.st_size;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) || size != PAGE_BYTES as i64 {
            return Err(io::Error::other("the shared page is not sealed or has a wrong size"));
        }
        Self::map(memfd)
    }

    fn map(memfd: OwnedFd) -> io::Result<Self> {
        const { assert!(size_of::<Layout>() <= PAGE_BYTES) };
        // SAFETY: a fresh shared mapping of a sealed memfd that is PAGE_BYTES long.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &memfd,
                0,
            )?
        };
        let map = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at null"))?;
        Ok(Self { memfd, map })
    }

    fn layout(&self) -> &Layout {
        // SAFETY: mapped and page-aligned for the life of self; every field is atomic.
        unsafe { self.map.as_ref() }
    }

    /// Reserves `count` packet numbers; returns the first.
    pub fn reserve_packets(&self, epoch: u16, count: u32) -> Result<u64, Replaced> {
        reserve(&self.layout().packets, epoch, u64::from(count))
    }

    /// Reserves the next frame index.
    pub fn reserve_frame(&self, epoch: u16) -> Result<u64, Replaced> {
        reserve(&self.layout().frames, epoch, 1)
    }

    /// Session: ends the right of all earlier encoders to reserve; returns the new epoch.
    pub fn raise_epoch(&self) -> u16 {
        let raise = |word: &AtomicU64| {
            word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |w| {
                Some(w.wrapping_add(1 << NEXT_BITS))
            })
            .map_or_else(|w| w, |w| w.wrapping_add(1 << NEXT_BITS))
        };
        raise(&self.layout().packets);
        (raise(&self.layout().frames) >> NEXT_BITS) as u16
    }

    /// The epoch now.
    pub fn epoch(&self) -> u16 {
        (self.layout().frames.load(Ordering::Acquire) >> NEXT_BITS) as u16
    }

    pub fn beat(&self, now_ns: u64) {
        self.layout().heartbeat_ns.store(now_ns, Ordering::Release);
    }

    /// CLOCK_MONOTONIC ns of the last beat; 0: never.
    pub fn heartbeat_ns(&self) -> u64 {
        self.layout().heartbeat_ns.load(Ordering::Acquire)
    }

    pub fn add(&self, figure: Figure, n: u64) {
        self.layout().figures[figure as usize].fetch_add(n, Ordering::Relaxed);
    }

    pub fn set(&self, figure: Figure, n: u64) {
        self.layout().figures[figure as usize].store(n, Ordering::Relaxed);
    }

    pub fn figure(&self, figure: Figure) -> u64 {
        self.layout().figures[figure as usize].load(Ordering::Relaxed)
    }

    /// How long a stage took for each frame, over all encoders of the viewer.
    pub fn times(&self, stage: Stage) -> &Histogram {
        &self.layout().times[stage as usize]
    }
}

fn reserve(word: &AtomicU64, epoch: u16, count: u64) -> Result<u64, Replaced> {
    word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |w| {
        let next = w & NEXT_MASK;
        (w >> NEXT_BITS == u64::from(epoch) && next + count <= NEXT_MASK).then(|| w + count)
    })
    .map(|w| w & NEXT_MASK)
    .map_err(|_| Replaced)
}

impl AsFd for ViewerPage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

impl Drop for ViewerPage {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this size, not used after.
        let _ = unsafe { rustix::mm::munmap(self.map.as_ptr().cast(), PAGE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_encoder_cannot_reserve_and_its_successor_goes_on_behind_it() {
        let session = ViewerPage::create().unwrap();
        let encoder = ViewerPage::open(session.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(encoder.reserve_frame(0), Ok(1));
        assert_eq!(encoder.reserve_packets(0, 10), Ok(0));
        assert_eq!(session.raise_epoch(), 1);
        assert_eq!(encoder.reserve_frame(0), Err(Replaced));
        assert_eq!(encoder.reserve_packets(0, 1), Err(Replaced));
        assert_eq!(session.epoch(), 1);
        assert_eq!(encoder.reserve_frame(1), Ok(2));
        assert_eq!(encoder.reserve_packets(1, 3), Ok(10));
        assert_eq!(encoder.reserve_packets(1, 1), Ok(13));
    }

    #[test]
    fn times_are_those_of_all_who_share_the_page() {
        let session = ViewerPage::create().unwrap();
        let encoder = ViewerPage::open(session.as_fd().try_clone_to_owned().unwrap()).unwrap();
        for (stage, ..) in Stage::ALL {
            encoder.times(stage).record(std::time::Duration::from_micros(3));
        }
        assert!(Stage::ALL.iter().all(|(stage, ..)| session.times(*stage).count() == 1));
        assert_eq!(session.figure(Figure::DroppedSystem), 0, "figures do not overlap with times");
    }

    #[test]
    fn an_unsealed_page_is_refused() {
        let memfd = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&memfd, PAGE_BYTES as u64).unwrap();
        assert!(ViewerPage::open(memfd).is_err());
    }
}
