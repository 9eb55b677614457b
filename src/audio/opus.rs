//! libopus, multistream: an encoder with the exact mapping that clients were told, and a decoder for
//! tests.
//!
//! 48 kHz, restricted low delay, constant bitrate without exception: all packets have one size, which
//! the parity of the stream depends on.
#![expect(unsafe_code, reason = "FFI to libopus")]
use std::ffi::c_int;
use std::ptr::NonNull;

use opusic_sys as ffi;

use crate::proto::stream::AudioSpec;

/// libopus refused; the number is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("libopus: error {0}")]
pub struct OpusError(c_int);

const RATE: i32 = 48_000;
/// Moderate: 5 ms of 7.1 must not cost a millisecond.
const COMPLEXITY: c_int = 5;

/// A multistream encoder.
#[derive(Debug)]
pub struct OpusEncoder {
    state: NonNull<ffi::OpusMSEncoder>,
    channels: usize,
    /// Samples per channel of one packet.
    samples: usize,
}

// SAFETY: the state is owned, and libopus keeps nothing of the thread.
unsafe impl Send for OpusEncoder {}

impl OpusEncoder {
    pub fn new(spec: &AudioSpec) -> Result<Self, OpusError> {
        assert!(spec.mapping.len() == usize::from(spec.channels));
        let mut error = 0;
        // SAFETY: the mapping has as many entries as channels; the result is checked.
        let state = unsafe {
            ffi::opus_multistream_encoder_create(
                RATE,
                c_int::from(spec.channels),
                c_int::from(spec.streams),
                c_int::from(spec.coupled),
                spec.mapping.as_ptr(),
                ffi::OPUS_APPLICATION_RESTRICTED_LOWDELAY,
                &raw mut error,
            )
        };
        let state = NonNull::new(state).filter(|_| error == 0).ok_or(OpusError(error))?;
        let encoder = Self {
            state,
            channels: usize::from(spec.channels),
            samples: usize::from(spec.packet_ms) * 48,
        };
        let bitrate = c_int::try_from(spec.bitrate).unwrap_or(c_int::MAX);
        for (request, value) in [
            (ffi::OPUS_SET_BITRATE_REQUEST, bitrate),
            (ffi::OPUS_SET_VBR_REQUEST, 0),
            (ffi::OPUS_SET_DTX_REQUEST, 0),
            (ffi::OPUS_SET_COMPLEXITY_REQUEST, COMPLEXITY),
        ] {
            // SAFETY: each of these requests takes one int.
            let code = unsafe { ffi::opus_multistream_encoder_ctl(state.as_ptr(), request, value) };
            if code != 0 {
                return Err(OpusError(code));
            }
        }
        Ok(encoder)
    }

    /// Interleaved samples of one packet.
    pub fn frame_samples(&self) -> usize {
        self.samples * self.channels
    }

    /// Encodes one packet of `frame_samples` samples into `packet`; returns its bytes.
    pub fn encode(&mut self, pcm: &[i16], packet: &mut [u8]) -> Result<usize, OpusError> {
        assert!(pcm.len() == self.frame_samples());
        let room = i32::try_from(packet.len()).unwrap_or(i32::MAX);
        // SAFETY: the samples are as many as `samples` per channel, the room is that of the slice.
        let bytes = unsafe {
            ffi::opus_multistream_encode(
                self.state.as_ptr(),
                pcm.as_ptr(),
                self.samples as c_int,
                packet.as_mut_ptr(),
                room,
            )
        };
        usize::try_from(bytes).map_err(|_| OpusError(bytes))
    }
}

impl Drop for OpusEncoder {
    fn drop(&mut self) {
        // SAFETY: made by create, destroyed once.
        unsafe { ffi::opus_multistream_encoder_destroy(self.state.as_ptr()) }
    }
}

/// A multistream decoder, as a client has one.
#[derive(Debug)]
pub struct OpusDecoder {
    state: NonNull<ffi::OpusMSDecoder>,
    channels: usize,
}

// SAFETY: as for the encoder.
unsafe impl Send for OpusDecoder {}

impl OpusDecoder {
    pub fn new(channels: u8, streams: u8, coupled: u8, mapping: &[u8]) -> Result<Self, OpusError> {
        assert!(mapping.len() == usize::from(channels));
        let mut error = 0;
        // SAFETY: the mapping has as many entries as channels; the result is checked.
        let state = unsafe {
            ffi::opus_multistream_decoder_create(
                RATE,
                c_int::from(channels),
                c_int::from(streams),
                c_int::from(coupled),
                mapping.as_ptr(),
                &raw mut error,
            )
        };
        let state = NonNull::new(state).filter(|_| error == 0).ok_or(OpusError(error))?;
        Ok(Self { state, channels: usize::from(channels) })
    }

    /// Interleaved samples of one packet of at most 10 ms.
    pub fn decode(&mut self, packet: &[u8]) -> Result<Vec<i16>, OpusError> {
        const SAMPLES_MAX: usize = 480;
        let mut pcm = vec![0; SAMPLES_MAX * self.channels];
        let length = i32::try_from(packet.len()).map_err(|_| OpusError(-1))?;
        // SAFETY: the room is SAMPLES_MAX per channel; libopus checks the packet.
        let samples = unsafe {
            ffi::opus_multistream_decode(
                self.state.as_ptr(),
                packet.as_ptr(),
                length,
                pcm.as_mut_ptr(),
                SAMPLES_MAX as c_int,
                0,
            )
        };
        pcm.truncate(usize::try_from(samples).map_err(|_| OpusError(samples))? * self.channels);
        Ok(pcm)
    }
}

impl Drop for OpusDecoder {
    fn drop(&mut self) {
        // SAFETY: made by create, destroyed once.
        unsafe { ffi::opus_multistream_decoder_destroy(self.state.as_ptr()) }
    }
}
