//! libopus' multistream decoder, as clients use it.
#![expect(unsafe_code, reason = "FFI to libopus")]
use std::ffi::c_int;
use std::ptr::NonNull;

use moonshard::proto::surround::Layout;
use opusic_sys as ffi;

const SAMPLES_MAX: usize = 480;

/// A decoder of one stream.
pub struct Decoder {
    state: NonNull<ffi::OpusMSDecoder>,
    channels: usize,
}

impl Decoder {
    pub fn new(layout: &Layout) -> Result<Self, String> {
        assert!(layout.mapping.len() == usize::from(layout.channels));
        let mut error = 0;
        // SAFETY: the mapping has as many entries as channels; the result is checked.
        let state = unsafe {
            ffi::opus_multistream_decoder_create(
                48_000,
                c_int::from(layout.channels),
                c_int::from(layout.streams),
                c_int::from(layout.coupled),
                layout.mapping.as_ptr(),
                &raw mut error,
            )
        };
        let state = NonNull::new(state).filter(|_| error == 0);
        let state = state.ok_or(format!("libopus: error {error}"))?;
        Ok(Self { state, channels: usize::from(layout.channels) })
    }

    /// Interleaved samples; None: the packet is broken.
    pub fn decode(&mut self, packet: &[u8]) -> Option<Vec<i16>> {
        let mut pcm = vec![0; SAMPLES_MAX * self.channels];
        // SAFETY: the room is SAMPLES_MAX per channel; libopus checks the packet.
        let samples = unsafe {
            ffi::opus_multistream_decode(
                self.state.as_ptr(),
                packet.as_ptr(),
                i32::try_from(packet.len()).ok()?,
                pcm.as_mut_ptr(),
                SAMPLES_MAX as c_int,
                0,
            )
        };
        pcm.truncate(usize::try_from(samples).ok()? * self.channels);
        Some(pcm)
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: made by create, destroyed once.
        unsafe { ffi::opus_multistream_decoder_destroy(self.state.as_ptr()) }
    }
}
