//! The server's side of one TLS connection, without its socket; and the one with rustls.
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

/// What a connection waits for.
pub enum Step {
    /// More bytes.
    Wait,
    /// Its answer, to this request head.
    Asked(Vec<u8>),
}

pub trait Session {
    /// Goes as far as the socket lets it.
    fn advance(&mut self, socket: &TcpStream) -> io::Result<Step>;
    /// Sends the answer and says that it was the last.
    fn finish(&mut self, socket: &TcpStream, answer: &[u8]) -> io::Result<()>;
}

pub struct Rustls {
    tls: ServerConnection,
    head: Vec<u8>,
}

impl Rustls {
    pub fn new(config: &Arc<ServerConfig>) -> Result<Self, Box<dyn Error>> {
        Ok(Self { tls: ServerConnection::new(Arc::clone(config))?, head: Vec::new() })
    }

    fn flush(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut socket)?;
        }
        Ok(())
    }
}

impl Session for Rustls {
    fn advance(&mut self, mut socket: &TcpStream) -> io::Result<Step> {
        loop {
            match self.tls.read_tls(&mut socket) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Wait),
                Err(error) => return Err(error),
            }
            self.tls.process_new_packets().map_err(io::Error::other)?;
            let mut chunk = [0; 2048];
            if let Ok(n) = self.tls.reader().read(&mut chunk) {
                self.head.extend_from_slice(&chunk[..n]);
                if self.head.ends_with(b"\r\n\r\n") {
                    return Ok(Step::Asked(std::mem::take(&mut self.head)));
                }
            }
            // The last flight of a handshake that brought its request goes out with the answer.
            self.flush(socket)?;
        }
    }

    fn finish(&mut self, socket: &TcpStream, answer: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(answer)?;
        self.tls.send_close_notify();
        self.flush(socket)
    }
}
