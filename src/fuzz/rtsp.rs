//! RTSP in any fragmentation, plain and sealed, and the SDP of both directions.
use super::RTSP_KEY;
use crate::limits::{HEIGHT_MAX, RTSP_MESSAGE_BYTES_MAX, WIDTH_MAX};
use crate::proto::audio::{AudioPacketizer, AudioParameters};
use crate::proto::rtsp::client::{ClientRequest, ClientResponse};
use crate::proto::rtsp::{
    Direction, Frame, FrameError, Framer, HEADER_BYTES, Method, OpenError, Request, Status, open,
    seal,
};
use crate::proto::sdp::client::Describe;
use crate::proto::sdp::{AnnounceContext, DescribeOffer, describe, encryption, parse_announce};
use crate::proto::stream::{CodecSupport, StreamSpec};
use crate::proto::surround::{Layout, Quality};
use crate::proto::video::{Packetizer, Parameters};

/// Everything that came on a connection, and the same bytes as a response to a client.
pub fn plain(bytes: &[u8]) {
    let whole = Framer::new().push(bytes);
    for step in [1, 7, 1000] {
        // One byte at a time is slow, and says no more about the end of a long message.
        if bytes.len() / step <= 2000 {
            assert_eq!(status(&in_parts(bytes, step)), status(&whole));
        }
    }
    if let Ok(Some(Frame::Plain(message))) = &whole {
        assert!(message.len() <= RTSP_MESSAGE_BYTES_MAX && bytes.starts_with(message));
        request(message);
    }
    request(bytes);
    if let Ok(response) = ClientResponse::parse(bytes) {
        _ = (response.session(), response.server_port(), response.ping_payload());
        _ = response.connect_data();
        if let Some(body) = &response.body {
            assert!(body.len() < bytes.len());
        }
    }
}

type Framed = Result<Option<Frame>, FrameError>;

/// What a framer comes to that gets `step` bytes at a time.
fn in_parts(bytes: &[u8], step: usize) -> Framed {
    let mut framer = Framer::new();
    for part in bytes.chunks(step) {
        match framer.push(part) {
            Ok(None) => {}
            end => return end,
        }
    }
    Ok(None)
}

/// The outcome without the number of a request that is cut off.
fn status(framed: &Framed) -> Result<Option<Frame>, Status> {
    framed.clone().map_err(|error| error.status())
}

/// One message, which may be anything.
fn request(message: &[u8]) {
    let Ok(request) = Request::parse(message) else { return };
    assert!(request.body.len() < message.len());
    _ = request.stream();
    let written_has_body = request.method == Method::Announce;
    let Ok(body) = str::from_utf8(&request.body) else { return };
    if !written_has_body && !body.is_empty() {
        return;
    }
    let again = ClientRequest {
        method: request.method,
        target: &request.target,
        cseq: request.cseq,
        host: request.host(),
        session: request.session(),
        body,
    };
    let again = Request::parse(&again.write()).expect("it is one");
    assert_eq!((again.method, &again.target), (request.method, &request.target));
    assert_eq!((again.cseq, again.host()), (request.cseq, request.host()));
    assert_eq!((again.session(), &again.body), (request.session(), &request.body));
    assert_eq!(again.stream(), request.stream());
}

/// A sealed message as it came, under the recorded key; then the same bytes sealed by ourselves.
pub fn sealed(bytes: &[u8]) {
    use Direction::{ClientToHost, HostToClient};
    if let Ok(Some(Frame::Sealed(message))) = Framer::new().push(bytes) {
        assert!(message.len() <= HEADER_BYTES + RTSP_MESSAGE_BYTES_MAX);
        let opened = open(&RTSP_KEY, &message, ClientToHost);
        assert!(!matches!(opened, Err(OpenError::Size | OpenError::Plaintext)));
        if let Ok((_, plain)) = &opened {
            request(plain);
            assert_eq!(open(&RTSP_KEY, &message, HostToClient), Err(OpenError::Forged));
        }
    }
    if let Ok((sequence, plain)) = open(&RTSP_KEY, bytes, ClientToHost) {
        assert_eq!(seal(&RTSP_KEY, sequence, ClientToHost, &plain), bytes);
    }
    let plain = &bytes[..bytes.len().min(RTSP_MESSAGE_BYTES_MAX)];
    let mut wire = seal(&RTSP_KEY, 3, ClientToHost, plain);
    assert_eq!(Framer::new().push(&wire), Ok(Some(Frame::Sealed(wire.clone()))));
    assert_eq!(open(&RTSP_KEY, &wire, ClientToHost), Ok((3, plain.to_vec())));
    assert_eq!(open(&RTSP_KEY, &wire[..wire.len() - 1], ClientToHost), Err(OpenError::Size));
    let at = 4 + plain.len() / 2;
    wire[at] ^= 0x10;
    assert_eq!(open(&RTSP_KEY, &wire, ClientToHost), Err(OpenError::Forged));
}

/// The body of an ANNOUNCE at hosts of three kinds, and the same bytes as a DESCRIBE to a client.
pub fn sdp(bytes: &[u8]) {
    let all = CodecSupport { h264: true, hevc: true, av1: true, extra_bits: u32::MAX };
    let least = CodecSupport { h264: true, ..CodecSupport::default() };
    let custom = Layout::parse_custom("642012453").expect("a layout");
    let lenient = AnnounceContext {
        codecs: &all,
        encryption_supported: encryption::ALL,
        encryption_required: 0,
        fec_percent: 255,
        surround: Some(&custom),
    };
    let strict = AnnounceContext {
        encryption_required: encryption::ALL,
        fec_percent: 20,
        surround: None,
        ..lenient
    };
    let least = AnnounceContext { codecs: &least, fec_percent: 0, ..strict };
    for context in [&lenient, &strict, &least] {
        for host in ["0.0.0.0", "192.168.1.10"] {
            if let Ok(spec) = parse_announce(bytes, host, context) {
                is_sound(&spec, context);
            }
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let offered = Describe::parse(&text);
    for (channels, quality) in [(2, Quality::High), (6, Quality::Normal), (8, Quality::High)] {
        if let Some(layout) = offered.layout(channels, quality) {
            assert_eq!(layout.mapping.len(), usize::from(layout.channels));
        }
    }
    if let Some(layout) = Layout::parse_custom(&text) {
        assert_eq!(layout.digits(), text);
        let offer = DescribeOffer {
            codecs: &all,
            features: 3,
            encryption_supported: encryption::ALL,
            encryption_requested: 0,
            reference_invalidation: true,
            surround: Some(&layout),
        };
        let channels = layout.channels;
        let read = Describe::parse(&describe(&offer)).layout(channels, Quality::High);
        assert_eq!(read, Some(layout));
    }
}

/// Encoders and packetizers take it as it is.
fn is_sound(spec: &StreamSpec, context: &AnnounceContext<'_>) {
    let (video, audio) = (&spec.video, &spec.audio);
    let mode = video.mode;
    assert!((16..=WIDTH_MAX).contains(&mode.width) && mode.width.is_multiple_of(2));
    assert!((16..=HEIGHT_MAX).contains(&mode.height) && mode.height.is_multiple_of(2));
    assert!((9_000..=245_000).contains(&mode.millihertz), "{mode:?}");
    assert!((100..=4_000_000).contains(&video.bitrate_kbps));
    assert!((1..=32).contains(&video.slices) && video.reference_frames_max <= 16);
    assert!([2, 6, 8].contains(&audio.channels) && [5, 10].contains(&audio.packet_ms));
    assert_eq!(audio.mapping.len(), usize::from(audio.channels));
    assert!(audio.mapping.iter().all(|at| *at < audio.channels));
    assert_eq!(audio.streams + audio.coupled, audio.channels);
    assert!(audio.coupled <= audio.streams && audio.bitrate > 0);
    let required = context.encryption_required;
    assert!(video.encrypted || required & encryption::VIDEO == 0);
    assert!(audio.encrypted || required & encryption::AUDIO == 0);
    assert!(spec.control_v2 || required & encryption::CONTROL_V2 == 0);
    let packetizer = Packetizer::new(&Parameters::new(video, &RTSP_KEY));
    assert!(packetizer.datagram_bytes() <= 8192 + 48);
    let parameters = AudioParameters { packet_ms: audio.packet_ms, encryption: None };
    let opus = vec![0; (audio.bitrate * u32::from(audio.packet_ms) / 8000) as usize];
    let sent = AudioPacketizer::new(&parameters, 0, 0).push(&opus).map(Iterator::count);
    assert_eq!(sent, Ok(1), "a packet of this bitrate fits a datagram");
}
