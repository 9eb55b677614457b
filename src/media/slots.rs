//! Frame slots as GStreamer memory: one persistent `GstMemory` per slot, a fresh buffer per frame.
//!
//! Nothing is copied: what the compositor drew is what the first element maps. A slot is free again
//! when the last reference to its frame's buffer goes, on whatever thread that happens.
#![expect(unsafe_code, reason = "fd memory, weak references to buffers, the registry's switch")]
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Once;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer_allocators::prelude::*;
use gstreamer_allocators::{DmaBufAllocator, FdAllocator, FdMemoryFlags};
use gstreamer_video::{VideoFormat, VideoFrameFlags, VideoMeta};

use super::MediaError;
use crate::ipc::RingSpec;
use crate::limits::RING_SLOTS;

/// The slots of one ring. A clone is the same slots.
#[derive(Clone, Debug)]
pub struct Slots {
    ring: RingSpec,
    memories: Vec<gst::Memory>,
}

impl Slots {
    /// Takes the ring's fds. The memory owns them and keeps its mapping.
    ///
    /// # Errors
    /// If a slot is smaller than the ring says, or the ring has no sound shape.
    pub fn new(ring: RingSpec, fds: Vec<OwnedFd>) -> Result<Self, MediaError> {
        let is_sound = ring.width > 0
            && ring.height > 0
            && ring.width <= u32::from(crate::limits::WIDTH_MAX)
            && ring.height <= u32::from(crate::limits::HEIGHT_MAX)
            && ring.stride >= ring.width * 4
            && ring.stride <= u32::from(crate::limits::WIDTH_MAX) * 8;
        let broken = |slot, reason: String| MediaError::Slot { slot, reason };
        if !is_sound || fds.len() != ring.slots as usize || !(1..=RING_SLOTS).contains(&fds.len()) {
            return Err(broken(0, format!("{} fds for the ring {ring:?}", fds.len())));
        }
        let mut memories = Vec::with_capacity(fds.len());
        for (slot, fd) in fds.into_iter().enumerate() {
            // A DMA-BUF tells its size by seeking; a memfd by its state, too.
            let size = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0))
                .map_err(|e| broken(slot, format!("no size: {e}")))?;
            if size < ring.slot_bytes() as u64 {
                return Err(broken(slot, format!("{size} bytes, not {}", ring.slot_bytes())));
            }
            memories.push(wrap(&ring, fd).map_err(|e| broken(slot, e.to_string()))?);
        }
        Ok(Self { ring, memories })
    }

    pub fn ring(&self) -> &RingSpec {
        &self.ring
    }

    /// The persistent memory of a slot.
    pub fn memory(&self, slot: u32) -> Option<&gst::Memory> {
        self.memories.get(slot as usize)
    }

    /// A buffer of the slot's picture at `pts` ns. `released` is called once, when the last reference
    /// goes, on the thread that drops it: it must not block. None: no such slot.
    pub fn frame(
        &self,
        slot: u32,
        pts: u64,
        released: impl FnOnce() + Send + 'static,
    ) -> Option<gst::Buffer> {
        let memory = self.memory(slot)?;
        let mut buffer = gst::Buffer::new();
        {
            let buffer = buffer.make_mut();
            buffer.append_memory(memory.clone());
            buffer.set_pts(gst::ClockTime::from_nseconds(pts));
            VideoMeta::add_full(
                buffer,
                VideoFrameFlags::empty(),
                VideoFormat::Bgrx,
                self.ring.width,
                self.ring.height,
                &[0],
                &[self.ring.stride.cast_signed()],
            )
            .ok()?;
        }
        on_last_unref(&buffer, Box::new(released));
        Some(buffer)
    }
}

fn wrap(ring: &RingSpec, fd: OwnedFd) -> Result<gst::Memory, glib::BoolError> {
    let (size, flags) = (ring.slot_bytes(), FdMemoryFlags::KEEP_MAPPED);
    let fd = fd.into_raw_fd();
    // SAFETY: the fd is ours, as large as `size`, and given away: the memory closes it.
    unsafe {
        if ring.dmabuf {
            DmaBufAllocator::new().alloc_dmabuf_with_flags(fd, size, flags)
        } else {
            FdAllocator::new().alloc_fd(fd, size, flags)
        }
    }
}

type Released = Box<dyn FnOnce() + Send>;

fn on_last_unref(buffer: &gst::Buffer, released: Released) {
    unsafe extern "C" fn notify(data: glib::ffi::gpointer, _: *mut gst::ffi::GstMiniObject) {
        // SAFETY: `data` is the box made below; GStreamer calls this once.
        let released = unsafe { Box::from_raw(data.cast::<Released>()) };
        released();
    }
    let data = Box::into_raw(Box::new(released)).cast();
    // SAFETY: the buffer is alive; the box is taken back by `notify`.
    unsafe {
        gst::ffi::gst_mini_object_weak_ref(buffer.as_mut_ptr().cast(), Some(notify), data);
    }
}

/// Plugins are scanned in this process from now on, not in a child of it. Before GStreamer starts.
pub fn forbid_scanner_child() {
    static ONCE: Once = Once::new();
    // SAFETY: sets one switch that GStreamer reads when it starts.
    ONCE.call_once(|| unsafe { gst::ffi::gst_registry_fork_set_enabled(glib::ffi::GFALSE) });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn memfd(bytes: u64) -> OwnedFd {
        let fd = rustix::fs::memfd_create("slot", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        fd
    }

    const RING: RingSpec = RingSpec { width: 64, height: 32, stride: 256, slots: 2, dmabuf: false };

    #[test]
    fn a_slot_is_released_once_when_the_last_reference_goes() {
        super::super::start().unwrap();
        let slots = Slots::new(RING, vec![memfd(8192), memfd(8192)]).unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let buffer = slots
            .frame(1, 5, move || {
                counted.fetch_add(1, Ordering::SeqCst);
            })
            .unwrap();
        assert_eq!(buffer.peek_memory(0).as_ptr(), slots.memory(1).unwrap().as_ptr());
        let other = buffer.clone();
        drop(buffer);
        assert_eq!(count.load(Ordering::SeqCst), 0);
        std::thread::spawn(move || drop(other)).join().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(slots.frame(2, 6, || ()).is_none());
    }

    #[test]
    fn rings_that_lie_are_refused() {
        super::super::start().unwrap();
        assert!(Slots::new(RING, vec![memfd(8192), memfd(8191)]).is_err());
        assert!(Slots::new(RING, vec![memfd(8192)]).is_err());
        let narrow = RingSpec { stride: 255, ..RING };
        assert!(Slots::new(narrow, vec![memfd(8192), memfd(8192)]).is_err());
        let huge = RingSpec { height: u32::MAX, ..RING };
        assert!(Slots::new(huge, vec![memfd(8192), memfd(8192)]).is_err());
    }
}
