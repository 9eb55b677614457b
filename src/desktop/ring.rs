//! The ring of frame slots that a desktop draws into and an encoder reads from.
//!
//! A ring belongs to one encoder: when that dies, what it still held is lost, and a new encoder gets a
//! new ring. Which slots are in flight is remembered here; sockets are not known here.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use smithay::reexports::pixman::Image;

use super::mapping::{PIXEL_BYTES, SlotMemory, Udmabuf};
use crate::ipc::RingSpec;
use crate::limits::RING_SLOTS;

/// `RING_SLOTS` slots of one size in memfds that cannot be resized, or in DMA-BUFs of such.
#[derive(Debug)]
pub struct Ring {
    spec: RingSpec,
    slots: Vec<Slot>,
    /// Drawings into any slot so far.
    drawings: u64,
}

#[derive(Debug)]
struct Slot {
    memory: SlotMemory,
    /// The frame that the encoder holds in this slot.
    in_flight: Option<u64>,
    /// The drawing that this slot shows; 0: none or unknown.
    drawing: u64,
}

/// A hand-back that fits no frame in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotInFlight;

impl Ring {
    /// Black slots for pictures of `width` times `height` pixels: DMA-BUFs where the kernel makes
    /// them, memfds elsewhere.
    ///
    /// # Errors
    /// The system's: no memory, no file descriptors. `InvalidInput` for an empty or oversized picture.
    pub fn create(width: u16, height: u16) -> io::Result<Self> {
        let dmabufs = Udmabuf::open().map(|u| Self::create_with(width, height, Some(&u)));
        match dmabufs {
            Some(Ok(ring)) => Ok(ring),
            Some(Err(error)) => {
                tracing::debug!(%error, width, height, "no DMA-BUFs of this size");
                Self::create_with(width, height, None)
            }
            None => Self::create_with(width, height, None),
        }
    }

    fn create_with(width: u16, height: u16, udmabuf: Option<&Udmabuf>) -> io::Result<Self> {
        let (width, height) = (usize::from(width), usize::from(height));
        let slot = || {
            let memory = SlotMemory::create(width, height, udmabuf)?;
            Ok(Slot { memory, in_flight: None, drawing: 0 })
        };
        let slots = (0..RING_SLOTS).map(|_| slot()).collect::<io::Result<Vec<_>>>()?;
        let spec = RingSpec {
            width: width as u32,
            height: height as u32,
            stride: (width * PIXEL_BYTES) as u32,
            slots: RING_SLOTS as u32,
            dmabuf: udmabuf.is_some(),
        };
        Ok(Self { spec, slots, drawings: 0 })
    }

    pub fn spec(&self) -> RingSpec {
        self.spec
    }

    /// The slots' fds, in slot order; they cross to the encoder once.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.slots.iter().map(|s| s.memory.as_fd()).collect()
    }

    /// The free slot that needs the least drawing: the one drawn last. None: the encoder holds all.
    pub(super) fn free_slot(&self) -> Option<u32> {
        let free = self.slots.iter().enumerate().filter(|(_, s)| s.in_flight.is_none());
        free.max_by_key(|(_, s)| s.drawing).map(|(i, _)| i as u32)
    }

    /// True: the slot shows the latest drawing.
    pub(super) fn is_current(&self, slot: u32) -> bool {
        self.drawings > 0 && self.slots[slot as usize].drawing == self.drawings
    }

    /// How many drawings ago this slot's picture was the latest, plus one; 0: its content is unknown.
    pub(super) fn age(&self, slot: u32) -> usize {
        match self.slots[slot as usize].drawing {
            0 => 0,
            drawing => usize::try_from(self.drawings - drawing + 1).unwrap_or(0),
        }
    }

    pub(super) fn image(&mut self, slot: u32) -> &mut Image<'static, 'static> {
        self.slots[slot as usize].memory.image()
    }

    /// The slot was drawn into and shows the desktop as it is.
    pub(super) fn drawn(&mut self, slot: u32) {
        self.drawings += 1;
        self.slots[slot as usize].drawing = self.drawings;
    }

    /// Drawing into the slot failed: its content is unknown, as is what the others lack.
    pub(super) fn spoilt(&mut self) {
        self.slots.iter_mut().for_each(|s| s.drawing = 0);
    }

    pub(super) fn sent(&mut self, slot: u32, seq: u64) {
        let slot = &mut self.slots[slot as usize];
        assert!(slot.in_flight.is_none(), "a slot in flight was sent again");
        slot.in_flight = Some(seq);
    }

    /// The encoder gives a slot back. The encoder is not trusted: the slot must be in flight with
    /// exactly that frame.
    pub(super) fn handed_back(&mut self, slot: u32, seq: u64) -> Result<(), NotInFlight> {
        match self.slots.get_mut(slot as usize) {
            Some(s) if s.in_flight == Some(seq) => {
                s.in_flight = None;
                Ok(())
            }
            _ => Err(NotInFlight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of memfds, and one of DMA-BUFs where the kernel has them.
    fn rings(width: u16, height: u16) -> Vec<Ring> {
        let memfds = Ring::create_with(width, height, None).unwrap();
        let dmabufs = Udmabuf::open().map(|u| Ring::create_with(width, height, Some(&u)).unwrap());
        println!("rings of DMA-BUFs: {}", dmabufs.is_some());
        assert!(dmabufs.iter().all(|ring| ring.spec().dmabuf) && !memfds.spec().dmabuf);
        [memfds].into_iter().chain(dmabufs).collect()
    }

    #[test]
    fn slots_have_the_announced_size_and_keep_it() {
        use rustix::fs::SeekFrom;
        // The second one is no whole number of pages.
        for ring in rings(64, 32).into_iter().chain(rings(70, 33)) {
            let spec = ring.spec();
            assert_eq!(ring.fds().len(), spec.slots as usize);
            for fd in ring.fds() {
                let bytes = rustix::fs::seek(fd, SeekFrom::End(0)).unwrap();
                assert!((spec.slot_bytes() as u64..).contains(&bytes), "{bytes}: {spec:?}");
                assert!(rustix::fs::ftruncate(fd, 0).is_err(), "a slot can be truncated");
                let flags = rustix::io::fcntl_getfd(fd).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
        }
    }

    #[test]
    fn encoders_see_through_the_fds_what_is_drawn_into_the_slots() {
        for mut ring in rings(70, 33) {
            let spec = ring.spec();
            let fds = ring.fds().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
            crate::media::start().unwrap();
            let slots = crate::media::slots::Slots::new(spec, fds).unwrap();
            for slot in 0..spec.slots {
                let image = ring.image(slot);
                // SAFETY of the test: the image's own memory, which nobody else writes.
                #[expect(unsafe_code, reason = "pixman lends its pixels as a pointer")]
                let pixels = unsafe { std::slice::from_raw_parts_mut(image.data(), 70 * 33) };
                pixels.fill(0x0102_0304 + slot);
                let memory = slots.memory(slot).unwrap().map_readable().unwrap();
                let expected = (0x0102_0304 + slot).to_le_bytes();
                let seen = memory.chunks_exact(4).take(70 * 33);
                assert!(seen.clone().all(|pixel| pixel == expected), "{spec:?}");
            }
        }
    }

    #[test]
    fn ages_count_the_drawings_that_a_slot_lacks() {
        let mut ring = Ring::create(8, 8).unwrap();
        assert_eq!((ring.age(0), ring.is_current(0)), (0, false));
        ring.drawn(0);
        assert_eq!((ring.age(0), ring.is_current(0)), (1, true));
        ring.drawn(1);
        assert_eq!((ring.age(0), ring.age(1), ring.age(2)), (2, 1, 0));
        assert_eq!(ring.free_slot(), Some(1));
        ring.spoilt();
        assert_eq!((ring.age(0), ring.age(1)), (0, 0));
    }

    #[test]
    fn only_a_slot_in_flight_with_its_own_frame_is_taken_back() {
        let mut ring = Ring::create(8, 8).unwrap();
        for seq in 1..=RING_SLOTS as u64 {
            let slot = ring.free_slot().unwrap();
            ring.sent(slot, seq);
        }
        assert_eq!(ring.free_slot(), None);
        let held = (0..RING_SLOTS as u32).find(|&s| ring.slots[s as usize].in_flight == Some(2));
        let held = held.unwrap();
        for (slot, seq) in [(99, 2), (u32::MAX, 1), (held, 1), (held, 0), (held, 77)] {
            assert_eq!(ring.handed_back(slot, seq), Err(NotInFlight));
        }
        assert_eq!(ring.handed_back(held, 2), Ok(()));
        assert_eq!(ring.handed_back(held, 2), Err(NotInFlight));
        assert_eq!(ring.free_slot(), Some(held));
    }

    #[test]
    fn empty_pictures_are_refused() {
        assert!(Ring::create(0, 10).is_err());
        assert!(Ring::create(10, 0).is_err());
    }
}
