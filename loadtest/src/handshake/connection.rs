//! One connection from connect to the end of its answer. It notes when each stage was reached; it knows
//! neither schedule nor statistics, and waits for nothing.
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use socket2::Socket;

use super::poll::{connected, dial};

/// An answer's head, bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// The server reset it.
    Reset,
    /// The server ended it before the answer was whole.
    Closed,
    /// It was not done in time; also what could not even be started in time.
    Timeout,
    /// An alert, a wrong signature, or no TLS at all.
    Tls,
    /// No HTTP answer, or a status of 400 and more.
    Http,
    /// This machine has no port, file descriptor or route left.
    Local,
}

impl Failure {
    pub const ALL: [Self; 7] = [
        Self::Refused,
        Self::Reset,
        Self::Closed,
        Self::Timeout,
        Self::Tls,
        Self::Http,
        Self::Local,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Local => "local",
        }
    }

    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::UnexpectedEof => Self::Closed,
            ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Local,
        }
    }
}

/// When each stage was reached.
#[derive(Clone, Copy, Debug)]
pub struct Stages {
    pub connected: Instant,
    pub secured: Instant,
    pub first_byte: Instant,
    pub answered: Instant,
    pub resumed: bool,
}

/// How a call of [`Connection::advance`] left it.
pub enum Step {
    Waiting,
    Done(Stages),
    Failed(Failure),
}

pub struct Connection {
    socket: Socket,
    tls: ClientConnection,
    connected: Option<Instant>,
    secured: Option<Instant>,
    first_byte: Option<Instant>,
    answer: Answer,
}

impl Connection {
    /// Starts to connect.
    pub fn start(target: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self, Failure> {
        let name = ServerName::IpAddress(target.ip().into());
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(|_| Failure::Tls)?;
        let socket = dial(target).map_err(|error| Failure::of(&error))?;
        let answer = Answer::default();
        Ok(Self { socket, tls, connected: None, secured: None, first_byte: None, answer })
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Goes as far as the socket lets it. `request` is sent once the handshake is done.
    pub fn advance(&mut self, request: &[u8]) -> Step {
        match self.run(request) {
            Ok(None) => Step::Waiting,
            Ok(Some(stages)) => Step::Done(stages),
            Err(failure) => Step::Failed(failure),
        }
    }

    fn run(&mut self, request: &[u8]) -> Result<Option<Stages>, Failure> {
        let connected_at = match self.connected {
            Some(at) => at,
            None if connected(&self.socket).map_err(|error| Failure::of(&error))? => {
                *self.connected.insert(Instant::now())
            }
            None => return Ok(None),
        };
        loop {
            self.flush()?;
            let read = self.read();
            let open = match read {
                Ok(Input::Bytes) => true,
                Ok(Input::Nothing) => return Ok(None),
                Ok(Input::End) => false,
                Err(failure) => {
                    // An alert of ours may say why.
                    let _ = self.flush();
                    return Err(failure);
                }
            };
            if self.secured.is_none() && !self.tls.is_handshaking() {
                self.secured = Some(Instant::now());
                self.tls.writer().write_all(request).map_err(|_| Failure::Tls)?;
            }
            let whole = self.take_plain(open)?;
            if let (true, Some(secured), Some(first_byte)) = (whole, self.secured, self.first_byte)
            {
                let resumed = self.tls.handshake_kind() == Some(HandshakeKind::Resumed);
                let answered = Instant::now();
                let connected = connected_at;
                return Ok(Some(Stages { connected, secured, first_byte, answered, resumed }));
            }
            if !open {
                return Err(Failure::Closed);
            }
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut &self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What the server said before it went may still be there to read.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Input, Failure> {
        match self.tls.read_tls(&mut &self.socket) {
            Ok(0) => Ok(Input::End),
            Ok(_) => {
                self.tls.process_new_packets().map_err(|_| Failure::Tls)?;
                Ok(Input::Bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Input::Nothing),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Input::Bytes),
            Err(error) => Err(Failure::of(&error)),
        }
    }

    /// Takes what was decrypted; whether the answer is whole.
    fn take_plain(&mut self, open: bool) -> Result<bool, Failure> {
        let mut buffer = [0; 4096];
        let mut ended = !open;
        loop {
            match self.tls.reader().read(&mut buffer) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(length) => {
                    self.first_byte.get_or_insert_with(Instant::now);
                    self.answer.push(&buffer[..length])?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => break,
            }
        }
        self.answer.whole(ended)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Bytes,
    Nothing,
    End,
}

/// An HTTP/1 answer, as far as its end must be known: status, Content-Length or the end of the connection.
#[derive(Default)]
struct Answer {
    head: Vec<u8>,
    /// Body bytes to come; None: until the connection ends.
    body: Option<Option<u64>>,
}

impl Answer {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if let Some(left) = &mut self.body {
            if let Some(left) = left {
                *left = left.saturating_sub(bytes.len() as u64);
            }
            return Ok(());
        }
        self.head.extend_from_slice(bytes);
        let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if self.head.len() > HEAD_BYTES_MAX { Err(Failure::Http) } else { Ok(()) };
        };
        let body = (self.head.len() - end - 4) as u64;
        let length = content_length(&self.head[..end])?;
        self.body = Some(length.map(|length| length.saturating_sub(body)));
        Ok(())
    }

    fn whole(&self, ended: bool) -> Result<bool, Failure> {
        match self.body {
            Some(Some(0)) => Ok(true),
            Some(None) => Ok(ended),
            Some(Some(_)) | None if ended => Err(Failure::Closed),
            Some(Some(_)) | None => Ok(false),
        }
    }
}

/// The Content-Length of a good answer. Fails on a status of 400 and more, and on what is no HTTP.
fn content_length(head: &[u8]) -> Result<Option<u64>, Failure> {
    let text = std::str::from_utf8(head).map_err(|_| Failure::Http)?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(100..400) => {}
        Some(_) | None => return Err(Failure::Http),
    }
    let mut lengths = lines
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    match lengths.next() {
        Some((_, value)) => value.trim().parse().map(Some).map_err(|_| Failure::Http),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, ended: bool) -> Result<bool, Failure> {
        let mut answer = Answer::default();
        for byte in text.as_bytes() {
            answer.push(std::slice::from_ref(byte))?;
        }
        answer.whole(ended)
    }

    #[test]
    fn an_answer_is_whole_at_its_length_or_at_the_end() {
        let sized = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(all(sized, false), Ok(true));
        for end in 0..sized.len() {
            assert_eq!(all(&sized[..end], false), Ok(false), "{end}");
            assert_eq!(all(&sized[..end], true), Err(Failure::Closed), "{end}");
        }
        let unsized_ = "HTTP/1.1 200 OK\r\n\r\nabc";
        assert_eq!(all(unsized_, false), Ok(false));
        assert_eq!(all(unsized_, true), Ok(true));
    }

    #[test]
    fn a_bad_status_and_what_is_no_http_are_failures() {
        for text in [
            "HTTP/1.1 500 x\r\n\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200\r\ncontent-length: x\r\n\r\n",
        ] {
            assert_eq!(all(text, true), Err(Failure::Http), "{text:?}");
        }
    }
}
