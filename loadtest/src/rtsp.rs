//! The RTSP handshake as the client library does it: one connection per request, plain or sealed.
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use moonshard::proto::ping;
use moonshard::proto::rtsp::client::{ClientRequest, ClientResponse};
use moonshard::proto::rtsp::{self, Direction, Method};
use moonshard::proto::sdp::client::{ClientAnnounce, Describe};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::Flow;

/// What the handshake settled.
pub struct Settled {
    pub describe: Describe,
    pub encryption: u32,
    pub video_port: u16,
    pub audio_port: u16,
    pub control_port: u16,
    pub payload: Option<ping::Payload>,
    pub connect_data: u32,
}

/// The RTSP side of one launch.
pub struct Rtsp<'a> {
    pub address: SocketAddr,
    pub url: &'a str,
    pub key: &'a SessionKey,
    /// Of our next sealed message; counts on over launches.
    pub sequence: &'a mut u32,
    pub cseq: u32,
    /// Normal stereo quality is asked for by this name for the host.
    pub low_audio: bool,
}

impl Rtsp<'_> {
    fn ask(&mut self, request: &ClientRequest<'_>) -> Result<ClientResponse, String> {
        let sealed = self.url.starts_with("rtspenc");
        let mut wire = request.write();
        if sealed {
            wire = rtsp::seal(self.key, *self.sequence, Direction::ClientToHost, &wire);
            *self.sequence += 1;
        }
        let told = |e: std::io::Error| format!("RTSP {}: {e}", self.address);
        let mut stream =
            TcpStream::connect_timeout(&self.address, Duration::from_secs(10)).map_err(told)?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).map_err(told)?;
        stream.set_nodelay(true).map_err(told)?;
        // In pieces, as the library writes.
        for piece in wire.chunks(536) {
            stream.write_all(piece).map_err(told)?;
        }
        let mut answer = Vec::new();
        stream.take(1 << 20).read_to_end(&mut answer).map_err(told)?;
        if sealed {
            let opened = rtsp::open(self.key, &answer, Direction::HostToClient);
            answer = opened.map_err(|e| format!("RTSP answer: {e}"))?.1;
        }
        let response =
            ClientResponse::parse(&answer).map_err(|_| "RTSP answer is malformed".to_owned())?;
        match response.status {
            200 => Ok(response),
            code => Err(format!("RTSP {:?} was answered with {code}", request.method)),
        }
    }

    fn next(&mut self) -> u32 {
        self.cseq += 1;
        self.cseq
    }

    /// The whole handshake; `announce` is completed with what the host offers. Audio pings may start
    /// as soon as `audio_known` is called.
    pub fn shake(
        &mut self,
        announce: &mut ClientAnnounce,
        wants: (bool, bool),
        high_quality: bool,
    ) -> Result<Settled, String> {
        let ip = match self.address.ip() {
            std::net::IpAddr::V6(v6) => format!("[{v6}]"),
            v4 => v4.to_string(),
        };
        let host = if self.low_audio { "0.0.0.0".to_owned() } else { ip };
        let url = if self.low_audio {
            format!("rtsp://0.0.0.0:{}", self.address.port())
        } else {
            self.url.to_owned()
        };
        let base = |method, target, cseq| ClientRequest {
            method,
            target,
            cseq,
            host: &host,
            session: None,
            body: "",
        };
        let cseq = self.next();
        self.ask(&base(Method::Options, &url, cseq))?;
        let cseq = self.next();
        let described = self.ask(&base(Method::Describe, &url, cseq))?;
        let describe = Describe::parse(described.body.as_deref().unwrap_or_default());
        let cseq = self.next();
        let audio = self.ask(&ClientRequest::setup(Flow::Audio, cseq, &host, None))?;
        let session = audio.session().ok_or("no Session in the audio SETUP")?.to_owned();
        let session = Some(session.as_str());
        let cseq = self.next();
        let video = self.ask(&ClientRequest::setup(Flow::Video, cseq, &host, session))?;
        let cseq = self.next();
        let control = self.ask(&ClientRequest::setup(Flow::Control, cseq, &host, session))?;
        announce.encryption = describe.encryption_enabled(wants.0, wants.1);
        announce.wants_audio_encrypted = wants.1;
        announce.surround_high = high_quality && announce.channels > 2;
        announce.video_port = video.server_port().unwrap_or(47998);
        let body = announce.write();
        let cseq = self.next();
        let target = rtsp::target_of(Flow::Control);
        let with = |method, target, cseq, body| ClientRequest {
            method,
            target,
            cseq,
            host: &host,
            session,
            body,
        };
        self.ask(&with(Method::Announce, target, cseq, &body))?;
        let cseq = self.next();
        self.ask(&with(Method::Play, "/", cseq, ""))?;
        Ok(Settled {
            describe,
            encryption: announce.encryption,
            video_port: announce.video_port,
            audio_port: audio.server_port().unwrap_or(48000),
            control_port: control.server_port().unwrap_or(47999),
            payload: video.ping_payload(),
            connect_data: control.connect_data(),
        })
    }

    /// A connect that sends nothing, as clients probe a port.
    pub fn probe(address: SocketAddr) {
        if let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
