//! The memory of one frame slot: a sealed memfd, mapped, seen as a pixman image; and, where the kernel
//! has udmabuf, a DMA-BUF of the same pages, which encoders of hardware can import.
//!
//! The only unsafe code of the desktop. It knows one picture format (BGRx, little-endian XR24) and
//! nothing of frames or encoders.
#![expect(
    unsafe_code,
    reason = "mmap of a memfd, a pixman image over the mapping, udmabuf's ioctl"
)]
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use smithay::reexports::pixman::{FormatCode, Image};

/// Bytes of one pixel.
pub const PIXEL_BYTES: usize = 4;

/// A mapped memfd of fixed size with a picture in it.
///
/// The fields drop in this order: the image, which points into the mapping, goes first.
#[derive(Debug)]
pub struct SlotMemory {
    image: Image<'static, 'static>,
    _mapping: Mapping,
    /// What the encoder gets: the memfd, or a DMA-BUF of its pages.
    shared: OwnedFd,
}

/// `/dev/udmabuf`: makes DMA-BUFs of memfds. Source: Linux include/uapi/linux/udmabuf.h.
#[derive(Debug)]
pub struct Udmabuf(OwnedFd);

/// `struct udmabuf_create`.
#[repr(C)]
struct Create {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

/// `_IOW('u', 0x42, struct udmabuf_create)`
const UDMABUF_CREATE: u64 = 0x4018_7542;
const UDMABUF_FLAGS_CLOEXEC: u32 = 1;

impl Udmabuf {
    /// None: this kernel has none, or we may not use it.
    pub fn open() -> Option<Self> {
        use rustix::fs::{Mode, OFlags};
        rustix::fs::open("/dev/udmabuf", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map(Self)
            .ok()
    }

    /// A DMA-BUF of the first `bytes` (whole pages) of a memfd that is sealed against shrinking.
    fn wrap(&self, memfd: BorrowedFd<'_>, bytes: usize) -> io::Result<OwnedFd> {
        let create = Create {
            memfd: memfd.as_raw_fd().cast_unsigned(),
            flags: UDMABUF_FLAGS_CLOEXEC,
            offset: 0,
            size: bytes as u64,
        };
        // SAFETY: the structure is the one that this call reads; it outlives the call.
        let fd = unsafe { libc::ioctl(self.0.as_raw_fd(), UDMABUF_CREATE, &raw const create) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this fd for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl SlotMemory {
    /// A zeroed (black) picture in a new memfd, sealed against any change of its size: a peer that
    /// could truncate it would kill its readers.
    ///
    /// # Errors
    /// No memory or no file descriptors; `InvalidInput` for an empty picture; whatever `udmabuf`, if it
    /// is to make a DMA-BUF of the slot, has against it (its pages are limited).
    pub fn create(width: usize, height: usize, udmabuf: Option<&Udmabuf>) -> io::Result<Self> {
        let stride = width * PIXEL_BYTES;
        let length = stride * height;
        if length == 0 || i32::try_from(length).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("moonshard-slot", flags)?;
        // A DMA-BUF has whole pages.
        let bytes = length.next_multiple_of(rustix::param::page_size());
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mapping = Mapping::new(fd.as_fd(), length)?;
        // SAFETY: the mapping is `stride * height` bytes, page aligned, and outlives the image: both
        // are owned by this value, the image is dropped first, and `image` lends it to the renderer's
        // `bind` only, which does not keep it.
        let image = unsafe {
            let format = FormatCode::X8R8G8B8;
            Image::from_raw_mut(format, width, height, mapping.pointer().cast(), stride, false)
        }
        .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let shared = match udmabuf {
            Some(udmabuf) => udmabuf.wrap(fd.as_fd(), bytes)?,
            None => fd,
        };
        Ok(Self { image, _mapping: mapping, shared })
    }

    /// The picture, to be drawn into.
    pub fn image(&mut self) -> &mut Image<'static, 'static> {
        &mut self.image
    }
}

impl AsFd for SlotMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.as_fd()
    }
}

/// A shared mapping of a whole memfd.
#[derive(Debug)]
struct Mapping {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: the mapping is plain memory that belongs to this value; it has no thread affinity.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let start = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, fd, 0)
        }?;
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }

    fn pointer(&self) -> *mut c_void {
        self.start.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value made the mapping, and no image over it is left (see `SlotMemory`).
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.length) };
    }
}
