//! Opus multistream decoding through libopus. The host's `audio` has a decoder too, which its pure ring,
//! all that is shared with it, cannot hold: libopus is no part of that.
#![expect(unsafe_code, reason = "libopus is a C library")]
use std::ffi::c_int;

use moonshard::proto::surround::Layout;

const SAMPLE_RATE: c_int = 48_000;

/// A decoder of one stream: 48 kHz, interleaved floats.
pub struct Decoder {
    state: *mut opusic_sys::OpusMSDecoder,
    channels: usize,
    /// Samples of one channel in a packet.
    samples: usize,
}

// SAFETY: the state is owned, and libopus ties no state to a thread.
unsafe impl Send for Decoder {}

impl Decoder {
    /// None: libopus refuses the layout.
    pub fn new(layout: &Layout, packet_ms: u8) -> Option<Self> {
        let mut error = 0;
        if layout.mapping.len() < usize::from(layout.channels) {
            return None;
        }
        // SAFETY: the mapping has one entry for each channel, as checked above.
        let state = unsafe {
            opusic_sys::opus_multistream_decoder_create(
                SAMPLE_RATE,
                c_int::from(layout.channels),
                c_int::from(layout.streams),
                c_int::from(layout.coupled),
                layout.mapping.as_ptr(),
                &raw mut error,
            )
        };
        (!state.is_null() && error == 0).then(|| Self {
            state,
            channels: usize::from(layout.channels),
            samples: 48 * usize::from(packet_ms),
        })
    }

    /// Decodes a packet, or conceals a lost one. None: the packet is damaged.
    pub fn decode(&mut self, packet: Option<&[u8]>) -> Option<Vec<f32>> {
        let mut pcm = vec![0.0; self.samples * self.channels];
        let (data, bytes) = packet.map_or((std::ptr::null(), 0), |p| (p.as_ptr(), p.len()));
        // SAFETY: `pcm` holds `samples` for each channel; `data` is `bytes` long or null.
        let samples = unsafe {
            opusic_sys::opus_multistream_decode_float(
                self.state,
                data,
                c_int::try_from(bytes).ok()?,
                pcm.as_mut_ptr(),
                c_int::try_from(self.samples).ok()?,
                0,
            )
        };
        let samples = usize::try_from(samples).ok()?;
        pcm.truncate(samples * self.channels);
        Some(pcm)
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: it was created in `new` and is destroyed once.
        unsafe { opusic_sys::opus_multistream_decoder_destroy(self.state) }
    }
}
