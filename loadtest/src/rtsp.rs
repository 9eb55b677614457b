//! The RTSP handshake of one launch, plain or sealed: one TCP connection for each message.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moonshard::limits::RTSP_MESSAGE_BYTES_MAX;
use moonshard::proto::ping::Payload;
use moonshard::proto::rtsp::client::{ClientRequest, ClientResponse};
use moonshard::proto::rtsp::{Direction, HEADER_BYTES, Method, open, seal, target_of};
use moonshard::proto::sdp::client::{ClientAnnounce, Describe};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::Flow;

const CONNECT_WAIT: Duration = Duration::from_secs(10);
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// Clients count on over launches and never use a number twice.
static SEQUENCE: AtomicU32 = AtomicU32::new(1);

/// The handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum RtspError {
    #[error("RTSP {step}: {error}")]
    Network { step: &'static str, error: std::io::Error },
    #[error("RTSP {step}: the host answers with status {status}")]
    Status { step: &'static str, status: i32 },
    #[error("RTSP {step}: the answer is one that clients refuse")]
    Answer { step: &'static str },
    #[error("the session URL {0:?} is not one of RTSP")]
    Url(String),
    #[error("the host offers no layout of {0} channels")]
    Channels(u8),
}

/// What the host said about one flow.
#[derive(Clone, Copy, Debug)]
pub struct FlowSetup {
    pub port: u16,
    pub payload: Option<Payload>,
    pub connect_data: u32,
}

/// What the handshake settled.
pub struct Settled {
    pub video: FlowSetup,
    pub audio: FlowSetup,
    pub control: FlowSetup,
    pub describe: Describe,
    pub announced: ClientAnnounce,
}

/// One handshake.
pub struct Handshake<'a> {
    address: SocketAddr,
    url: &'a str,
    host: String,
    key: Option<&'a SessionKey>,
    cseq: u32,
    session: Option<String>,
}

impl<'a> Handshake<'a> {
    /// `address` is the host as it was reached; its RTSP port and the sealing come from `url`.
    pub fn new(address: SocketAddr, url: &'a str, key: &'a SessionKey) -> Result<Self, RtspError> {
        let wrong = || RtspError::Url(url.to_owned());
        let sealed = url.starts_with("rtspenc://");
        if !sealed && !url.starts_with("rtsp://") {
            return Err(wrong());
        }
        let port =
            url.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).ok_or_else(wrong)?;
        let address = SocketAddr::new(address.ip(), port);
        let host = address.ip().to_string();
        Ok(Self { address, url, host, key: sealed.then_some(key), cseq: 0, session: None })
    }

    /// All messages; `announce` decides when the offer is known.
    pub fn run(
        mut self,
        announce: impl FnOnce(&Describe, u16) -> Result<ClientAnnounce, RtspError>,
    ) -> Result<Settled, RtspError> {
        let url = self.url;
        self.ask("OPTIONS", Method::Options, url, "")?;
        let offer = self.ask("DESCRIBE", Method::Describe, url, "")?;
        let describe = Describe::parse(offer.body.as_deref().unwrap_or_default());
        let audio = self.setup("SETUP audio", Flow::Audio)?;
        let video = self.setup("SETUP video", Flow::Video)?;
        let control = self.setup("SETUP control", Flow::Control)?;
        let announced = announce(&describe, video.port)?;
        let body = announced.write();
        self.ask("ANNOUNCE", Method::Announce, target_of(Flow::Control), &body)?;
        self.ask("PLAY", Method::Play, "/", "")?;
        Ok(Settled { video, audio, control, describe, announced })
    }

    fn setup(&mut self, step: &'static str, flow: Flow) -> Result<FlowSetup, RtspError> {
        let answer = self.ask(step, Method::Setup, target_of(flow), "")?;
        if flow == Flow::Audio {
            let token = answer.session().ok_or(RtspError::Answer { step })?;
            self.session = Some(token.to_owned());
        }
        Ok(FlowSetup {
            port: answer.server_port().ok_or(RtspError::Answer { step })?,
            payload: answer.ping_payload(),
            connect_data: answer.connect_data(),
        })
    }

    fn ask(
        &mut self,
        step: &'static str,
        method: Method,
        target: &str,
        body: &str,
    ) -> Result<ClientResponse, RtspError> {
        self.cseq += 1;
        let session = self.session.as_deref();
        let request =
            ClientRequest { method, target, cseq: self.cseq, host: &self.host, session, body };
        let answer =
            self.exchange(&request.write()).map_err(|error| RtspError::Network { step, error })?;
        let plain = match self.key {
            Some(key) => {
                open(key, &answer, Direction::HostToClient)
                    .map_err(|_| RtspError::Answer { step })?
                    .1
            }
            None => answer,
        };
        let answer = ClientResponse::parse(&plain).map_err(|_| RtspError::Answer { step })?;
        match answer.status {
            200 => Ok(answer),
            status => Err(RtspError::Status { step, status }),
        }
    }

    fn exchange(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, CONNECT_WAIT)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        match self.key {
            Some(key) => {
                let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
                stream.write_all(&seal(key, sequence, Direction::ClientToHost, request))?;
            }
            None => stream.write_all(request)?,
        }
        let mut answer = Vec::new();
        let most = (HEADER_BYTES + RTSP_MESSAGE_BYTES_MAX) as u64;
        stream.take(most).read_to_end(&mut answer)?;
        Ok(answer)
    }
}
