//! The shape of Wolf's HTTPS server: OpenSSL, one thread, and handlers that run on it.
//! Source: Wolf src/moonlight-server/rest/custom-https.hpp, Simple-Web-Server server_https.hpp.
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use openssl::ssl::{ErrorCode, Ssl, SslContext, SslFiletype, SslMethod, SslStream, SslVerifyMode};

use crate::session::{Session, Step};

/// How long the handler of /cancel waits for a pipeline that does not stop.
const STUCK: Duration = Duration::from_secs(5);

/// The host's own certificate; any client certificate, as Wolf takes them.
pub fn context(state: &Path) -> Result<SslContext, Box<dyn Error>> {
    let mut context = SslContext::builder(SslMethod::tls_server())?;
    context.set_certificate_file(state.join("cert.pem"), SslFiletype::PEM)?;
    context.set_private_key_file(state.join("key.pem"), SslFiletype::PEM)?;
    context.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
    context.set_session_id_context(b"wolf")?;
    Ok(context.build())
}

/// Blocks the only thread there is.
pub fn handle(head: &[u8]) {
    if head.starts_with(b"GET /cancel") {
        sleep(STUCK);
    }
}

/// The socket is the session's own from the first call on.
pub struct OpenSsl {
    ssl: Option<Ssl>,
    stream: Option<SslStream<TcpStream>>,
    is_open: bool,
    head: Vec<u8>,
}

impl OpenSsl {
    pub fn new(context: &SslContext) -> Result<Self, Box<dyn Error>> {
        let ssl = Some(Ssl::new(context)?);
        Ok(Self { ssl, stream: None, is_open: false, head: Vec::new() })
    }

    fn stream(&mut self, socket: &TcpStream) -> io::Result<&mut SslStream<TcpStream>> {
        if let Some(ssl) = self.ssl.take() {
            let stream = SslStream::new(ssl, socket.try_clone()?).map_err(io::Error::other)?;
            self.stream = Some(stream);
        }
        self.stream.as_mut().ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

impl Session for OpenSsl {
    fn advance(&mut self, socket: &TcpStream) -> io::Result<Step> {
        if !self.is_open {
            match self.stream(socket)?.accept() {
                Ok(()) => self.is_open = true,
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(Step::Wait),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let mut chunk = [0; 2048];
        loop {
            match self.stream(socket)?.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.head.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Wait),
                Err(error) => return Err(error),
            }
            if self.head.ends_with(b"\r\n\r\n") {
                return Ok(Step::Asked(std::mem::take(&mut self.head)));
            }
        }
    }

    fn finish(&mut self, socket: &TcpStream, answer: &[u8]) -> io::Result<()> {
        let stream = self.stream(socket)?;
        stream.write_all(answer)?;
        let _ = stream.shutdown();
        Ok(())
    }
}
