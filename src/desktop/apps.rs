//! The applications that are connected, and what each may ask for: none of them is trusted.
//!
//! An application over a limit is cut off alone. Requests that smithay would panic or fault on are
//! refused here before they reach it.
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use smithay::reexports::wayland_protocols_misc::zwp_virtual_keyboard_v1::server::zwp_virtual_keyboard_manager_v1::ZwpVirtualKeyboardManagerV1;
use smithay::reexports::wayland_protocols_misc::zwp_virtual_keyboard_v1::server::zwp_virtual_keyboard_v1::{self, ZwpVirtualKeyboardV1};
use smithay::reexports::wayland_server::backend::protocol::ProtocolError;
use smithay::reexports::wayland_server::backend::{ClientData, ClientId, DisconnectReason};
use smithay::reexports::wayland_server::protocol::wl_buffer::{self, WlBuffer};
use smithay::reexports::wayland_server::protocol::wl_shm::{self, WlShm};
use smithay::reexports::wayland_server::protocol::wl_shm_pool::{self, WlShmPool};
use smithay::reexports::wayland_server::{
    Client, DataInit, Dispatch, DisplayHandle, Resource, delegate_dispatch, delegate_global_dispatch,
};
use smithay::wayland::compositor::CompositorClientState;
use smithay::wayland::shm::{ShmBufferUserData, ShmPoolUserData, ShmState};
use smithay::wayland::virtual_keyboard::{
    VirtualKeyboardManagerGlobalData, VirtualKeyboardManagerState, VirtualKeyboardUserData,
};
use tracing::info;

use super::figures::Figures;
use super::state::State;

/// Wayland clients of one desktop.
pub const APPS_MAX: u64 = 64;
/// Surfaces of one client.
const SURFACES_MAX: u32 = 1024;
/// Shared memory pools of one client; each holds a file descriptor of ours.
const POOLS_MAX: u32 = 512;
/// Shared memory buffers of one client; each may keep a pool alive.
const BUFFERS_MAX: u32 = 2048;
/// Bytes of a keymap from a virtual keyboard.
const KEYMAP_BYTES_MAX: u32 = 1024 * 1024;
/// `wl_display.error.no_memory`.
const NO_MEMORY: u32 = 2;

/// One connected application.
#[derive(Debug)]
pub struct App {
    pub compositor: CompositorClientState,
    surfaces: Arc<AtomicU32>,
    pools: AtomicU32,
    buffers: AtomicU32,
    figures: Arc<Figures>,
}

impl App {
    /// The figures count it until it disconnects.
    pub fn new(figures: Arc<Figures>) -> Self {
        figures.clients.add();
        Self {
            compositor: CompositorClientState::default(),
            surfaces: Arc::default(),
            pools: AtomicU32::new(0),
            buffers: AtomicU32::new(0),
            figures,
        }
    }

    /// Counts one more surface; None: it has too many. The surface counts until the token is dropped.
    pub fn add_surface(&self) -> Option<SurfaceToken> {
        let token = SurfaceToken(self.surfaces.clone());
        (self.surfaces.fetch_add(1, Ordering::Relaxed) < SURFACES_MAX).then_some(token)
    }
}

impl ClientData for App {
    fn disconnected(&self, _: ClientId, reason: DisconnectReason) {
        tracing::debug!(?reason, "a client has gone");
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.figures.clients.subtract();
    }
}

/// Stands for one surface of an application.
#[derive(Debug)]
pub struct SurfaceToken(Arc<AtomicU32>);

impl Drop for SurfaceToken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends one application's connection.
pub fn cut_off(client: &Client, display: &DisplayHandle, figures: &Figures, why: &str) {
    figures.clients_cut_off.add();
    info!(why, "a client was cut off");
    let error = ProtocolError {
        code: NO_MEMORY,
        object_id: 1,
        object_interface: "wl_display".into(),
        message: why.into(),
    };
    client.kill(display, error);
}

/// Adds one to a count of this client's; false, and the client is cut off, if it is at its maximum.
fn count(
    state: &State,
    client: &Client,
    of: fn(&App) -> &AtomicU32,
    maximum: u32,
    why: &str,
) -> bool {
    let Some(app) = client.get_data::<App>() else { return true };
    let allowed = of(app).fetch_add(1, Ordering::Relaxed) < maximum;
    if !allowed {
        cut_off(client, &state.display, &state.figures, why);
    }
    allowed
}

fn discount(state: &State, client: ClientId, of: fn(&App) -> &AtomicU32) {
    if let Ok(data) = state.display.backend_handle().get_client_data(client)
        && let Some(app) = data.downcast_ref::<App>()
    {
        of(app).fetch_sub(1, Ordering::Relaxed);
    }
}

delegate_global_dispatch!(State: [WlShm: ()] => ShmState);

impl Dispatch<WlShm, ()> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        shm: &WlShm,
        request: wl_shm::Request,
        data: &(),
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        if let wl_shm::Request::CreatePool { .. } = request
            && !count(state, client, |app| &app.pools, POOLS_MAX, "too many shm pools")
        {
            return;
        }
        <ShmState as Dispatch<WlShm, (), Self>>::request(
            state, client, shm, request, data, display, init,
        );
    }
}

impl Dispatch<WlShmPool, ShmPoolUserData> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        pool: &WlShmPool,
        request: wl_shm_pool::Request,
        data: &ShmPoolUserData,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        match request {
            // smithay 0.7 goes on after its error and unwraps a size of zero.
            wl_shm_pool::Request::Resize { size } if size <= 0 => {
                pool.post_error(wl_shm::Error::InvalidFd, "invalid wl_shm_pool size");
                return;
            }
            wl_shm_pool::Request::CreateBuffer { .. }
                if !count(state, client, |app| &app.buffers, BUFFERS_MAX, "too many buffers") =>
            {
                return;
            }
            _ => {}
        }
        <ShmState as Dispatch<WlShmPool, ShmPoolUserData, Self>>::request(
            state, client, pool, request, data, display, init,
        );
    }

    fn destroyed(state: &mut Self, client: ClientId, _: &WlShmPool, _: &ShmPoolUserData) {
        discount(state, client, |app| &app.pools);
    }
}

impl Dispatch<WlBuffer, ShmBufferUserData> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        buffer: &WlBuffer,
        request: wl_buffer::Request,
        data: &ShmBufferUserData,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        <ShmState as Dispatch<WlBuffer, ShmBufferUserData, Self>>::request(
            state, client, buffer, request, data, display, init,
        );
    }

    fn destroyed(state: &mut Self, client: ClientId, buffer: &WlBuffer, data: &ShmBufferUserData) {
        discount(state, client.clone(), |app| &app.buffers);
        <ShmState as Dispatch<WlBuffer, ShmBufferUserData, Self>>::destroyed(
            state, client, buffer, data,
        );
    }
}

delegate_global_dispatch!(State: [
    ZwpVirtualKeyboardManagerV1: VirtualKeyboardManagerGlobalData
] => VirtualKeyboardManagerState);
delegate_dispatch!(State: [ZwpVirtualKeyboardManagerV1: ()] => VirtualKeyboardManagerState);

impl Dispatch<ZwpVirtualKeyboardV1, VirtualKeyboardUserData<State>> for State {
    fn request(
        state: &mut Self,
        client: &Client,
        keyboard: &ZwpVirtualKeyboardV1,
        request: zwp_virtual_keyboard_v1::Request,
        data: &VirtualKeyboardUserData<State>,
        display: &DisplayHandle,
        init: &mut DataInit<'_, Self>,
    ) {
        let request = match request {
            // smithay 0.7 maps the client's file, which it may truncate: give it a copy.
            zwp_virtual_keyboard_v1::Request::Keymap { format, fd, size } => {
                match sealed_copy(fd, size) {
                    Ok(fd) => zwp_virtual_keyboard_v1::Request::Keymap { format, fd, size },
                    Err(_) => {
                        cut_off(client, display, &state.figures, "unreadable keymap");
                        return;
                    }
                }
            }
            other => other,
        };
        <VirtualKeyboardManagerState as Dispatch<
            ZwpVirtualKeyboardV1,
            VirtualKeyboardUserData<State>,
            Self,
        >>::request(state, client, keyboard, request, data, display, init);
    }
}

/// A memfd with exactly `size` bytes of `file`.
fn sealed_copy(file: OwnedFd, size: u32) -> std::io::Result<OwnedFd> {
    // A regular file or memfd: a pipe could make the read wait.
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if size == 0 || size > KEYMAP_BYTES_MAX || kind != rustix::fs::FileType::RegularFile {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = vec![0; size as usize];
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    std::fs::File::from(file).read_exact(&mut bytes)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("moonshard-keymap", flags)?;
    rustix::io::write(copy.as_fd(), &bytes)?;
    rustix::fs::fcntl_add_seals(&copy, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(copy)
}
