//! The memory of one frame slot: a sealed memfd, mapped, seen as a pixman image.
//!
//! The only unsafe code of the desktop. It knows one picture format (BGRx, little-endian XR24) and
//! nothing of frames or encoders.
#![expect(unsafe_code, reason = "mmap of a memfd and a pixman image over the mapping")]
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    mapping: Mapping,
    fd: OwnedFd,
}

impl SlotMemory {
    /// A zeroed (black) picture in a new memfd, sealed against any change of its size: a peer that
    /// could truncate it would kill its readers.
    ///
    /// # Errors
    /// No memory or no file descriptors; `InvalidInput` for an empty picture.
    pub fn create(width: usize, height: usize) -> io::Result<Self> {
        let stride = width * PIXEL_BYTES;
        let length = stride * height;
        if length == 0 || i32::try_from(length).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("moonshard-slot", flags)?;
        rustix::fs::ftruncate(&fd, length as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mapping = Mapping::new(fd.as_fd(), length)?;
        // SAFETY: the mapping is `stride * height` bytes, page aligned, and outlives the image: both
        // are owned by this value, the image is dropped first and never handed out by value.
        let image = unsafe {
            let format = FormatCode::X8R8G8B8;
            Image::from_raw_mut(format, width, height, mapping.pointer().cast(), stride, false)
        }
        .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { image, mapping, fd })
    }

    /// The picture, to be drawn into.
    pub fn image(&mut self) -> &mut Image<'static, 'static> {
        &mut self.image
    }

    /// A copy of the picture's bytes, row by row without gaps. For tests and screenshots.
    pub fn to_vec(&self) -> Vec<u8> {
        self.mapping.to_vec()
    }
}

impl AsFd for SlotMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
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

    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        // SAFETY: `length` bytes are mapped and sealed against shrinking. Another process may write
        // meanwhile, so they are copied by pointer and never seen through a reference.
        unsafe {
            let from = self.start.as_ptr().cast::<u8>();
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), self.length);
        }
        bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value made the mapping, and no image over it is left (see `SlotMemory`).
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.length) };
    }
}
