//! TLS over a connection of a shard: the asynchronous wrapper around the `tls` module's configuration.
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_rustls::rustls::ServerConfig;
use futures_rustls::server::TlsStream;
use futures_util::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::listen::Conn;

/// Does handshakes; the same on all shards.
#[derive(Clone)]
pub struct TlsAcceptor(futures_rustls::TlsAcceptor);

impl TlsAcceptor {
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(config.into())
    }

    /// The whole handshake. The caller sets the deadline by dropping the future.
    ///
    /// # Errors
    /// What ended the handshake, and the connection as it is then (an alert has been written if there
    /// was one to write).
    pub async fn accept(&self, conn: Conn) -> Result<TlsConn, (io::Error, Conn)> {
        self.0.accept(conn).into_fallible().await.map(|stream| TlsConn(Box::new(stream)))
    }
}

/// A connection behind its handshake. Boxed: its state is large and moves between tasks.
pub struct TlsConn(Box<TlsStream<Conn>>);

impl TlsConn {
    /// DER of the certificate whose key the peer has proven to own; None: none was shown.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        let certificates = self.0.get_ref().1.peer_certificates()?;
        certificates.first().map(|leaf| leaf.to_vec())
    }

    pub fn conn(&self) -> &Conn {
        self.0.get_ref().0
    }

    /// Writes the last bytes and ends the writing side: close_notify goes out with them, in one send
    /// if they fit into the session's buffer.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn finish(&mut self, bytes: &[u8]) -> io::Result<()> {
        let buffered = self.0.get_mut().1.writer().write(bytes)?;
        self.write_all(&bytes[buffered..]).await?;
        self.close().await
    }

    /// The bare connection, for what comes after the last record.
    pub fn into_conn(self) -> Conn {
        self.0.into_inner().0
    }
}

impl AsyncRead for TlsConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsConn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    /// Sends close_notify, then ends the writing side.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_close(cx)
    }
}
