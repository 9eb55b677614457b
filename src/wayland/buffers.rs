//! The buffers of one surface: up to three of one size in shared memory, drawn in turn.
//!
//! Each remembers what it shows, so that only differences need drawing.
use smithay_client_toolkit::shm::Shm;
use smithay_client_toolkit::shm::slot::{Buffer, SlotPool};
use wayland_client::protocol::wl_shm::Format;
use wayland_client::protocol::wl_surface::WlSurface;

use crate::paint::canvas::{Canvas, PIXEL_BYTES};

/// One that is shown, one that waits to be, one to draw into.
const BUFFERS_MAX: usize = 3;

/// `S` says what a buffer shows; its default is "nothing known".
pub struct Buffers<S> {
    pool: SlotPool,
    buffers: Vec<(Buffer, S)>,
    width: u32,
    height: u32,
}

/// No shared memory.
#[derive(Debug, thiserror::Error)]
#[error("shared memory for a picture: {0}")]
pub struct NoMemory(String);

impl<S: Default> Buffers<S> {
    /// # Errors
    /// See [`NoMemory`].
    pub fn new(shm: &Shm, width: u32, height: u32) -> Result<Self, NoMemory> {
        let bytes = width as usize * height as usize * PIXEL_BYTES * BUFFERS_MAX;
        let pool = SlotPool::new(bytes, shm).map_err(|error| NoMemory(error.to_string()))?;
        Ok(Self { pool, buffers: Vec::new(), width, height })
    }

    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Draws into a free buffer and attaches it; the commit is the caller's. False: none is free.
    ///
    /// # Errors
    /// See [`NoMemory`].
    pub fn draw(
        &mut self,
        surface: &WlSurface,
        draw: impl FnOnce(&mut Canvas<'_>, &mut S),
    ) -> Result<bool, NoMemory> {
        let free = (0..self.buffers.len())
            .find(|&index| self.pool.canvas(&self.buffers[index].0).is_some());
        let index = match free {
            Some(index) => index,
            None if self.buffers.len() == BUFFERS_MAX => return Ok(false),
            None => {
                let (width, height) = (self.width as i32, self.height as i32);
                let stride = width * PIXEL_BYTES as i32;
                let made = self.pool.create_buffer(width, height, stride, Format::Xrgb8888);
                let (buffer, _) = made.map_err(|error| NoMemory(error.to_string()))?;
                self.buffers.push((buffer, S::default()));
                self.buffers.len() - 1
            }
        };
        let (buffer, shown) = &mut self.buffers[index];
        let Some(bytes) = self.pool.canvas(buffer) else { return Ok(false) };
        draw(&mut Canvas::new(bytes, self.width, self.height), shown);
        buffer.attach_to(surface).map_err(|error| NoMemory(error.to_string()))?;
        Ok(true)
    }
}
