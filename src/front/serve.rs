//! Connections of one shard: from accept to the last byte, for HTTPS, HTTP and RTSP.
//!
//! Each carries one request. Until that is there the connection may be turned away at any time, with a
//! reset; from then on it is treated politely. A request that waits for the host watches its socket,
//! so that the host learns at once of a client that went away.
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::{Instrument, debug, warn_span};

use super::core::{Call, Core};
use super::counters::{Counter, ShardCounters};
use super::gate::{Gate, Pass, TurnedAway};
use super::reception::Service;
use crate::config::Limits;
use crate::host::event::{Answer, Caller, Event};
use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::proto::http::{Head, HttpError, Request, Response};
use crate::proto::rtsp::{self, Frame, FrameError, Framer};
use crate::shard::{Conn, Queue, Shard, TlsAcceptor, TlsConn, now, timeout_at};
use crate::tls::{self, Refusal};

/// Bytes read at once while a request is on its way.
const READ_BYTES: usize = 2048;
/// Bytes that a peer may send while its request waits, and while the connection is closing.
const SURPLUS_BYTES_MAX: usize = 64 * 1024;
/// How long a closing connection is read, so that no reset overtakes the answer.
const FAREWELL: Duration = Duration::from_secs(1);
/// The host has its own deadlines for what waits; this much later the front stops believing in them.
const CALL_SLACK: Duration = Duration::from_secs(10);

/// Connections so far, on all shards: the number of the next.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// What one shard serves with.
pub struct Desk {
    pub shard: Shard,
    pub core: Arc<Core>,
    /// This shard's own.
    pub counters: Arc<ShardCounters>,
    pub limits: Limits,
    pub tls: TlsAcceptor,
    /// Connections whose request is not there yet.
    pub pending: Gate,
    /// Connections whose answer is not gone yet.
    pub answering: Gate,
}

/// A connection that a request came over.
trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {
    fn conn(&self) -> &Conn;
    fn into_conn(self) -> Conn;
    fn certificate(&self) -> Option<Vec<u8>>;
    /// Writes the last bytes and ends the writing side.
    async fn finish(&mut self, bytes: &[u8]) -> io::Result<()>;
    const TLS: bool;
}

impl Stream for Conn {
    const TLS: bool = false;
    fn conn(&self) -> &Conn {
        self
    }
    fn into_conn(self) -> Conn {
        self
    }
    fn certificate(&self) -> Option<Vec<u8>> {
        None
    }
    async fn finish(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.close().await
    }
}

impl Stream for TlsConn {
    const TLS: bool = true;
    fn conn(&self) -> &Conn {
        self.conn()
    }
    fn into_conn(self) -> Conn {
        self.into_conn()
    }
    fn certificate(&self) -> Option<Vec<u8>> {
        self.peer_certificate()
    }
    async fn finish(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.finish(bytes).await
    }
}

/// Why no request came.
#[derive(Debug)]
enum NoRequest<E> {
    TurnedAway(TurnedAway),
    /// The peer closed or broke the connection.
    Left,
    Malformed(E),
}

impl Desk {
    /// Serves a new connection, in a task of its own.
    pub fn serve(self: &Rc<Self>, service: Service, conn: Conn) {
        // Of a level that is always on: a line without its connection tells little.
        let id = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let span = warn_span!("conn", id, service = ?service, peer = %conn.peer());
        // Whatever ends a connection before its request is there ends it by a reset: no TIME_WAIT.
        conn.set_reset_on_close(true);
        let desk = Rc::clone(self);
        let task = async move {
            match service {
                Service::Https => desk.https(conn).await,
                Service::Http => {
                    let pass = desk.pending.enter(conn.peer().ip());
                    desk.http(conn, pass).await;
                }
                Service::Rtsp => desk.rtsp(conn).await,
            }
        };
        self.shard.spawn(Queue::Admission, task.instrument(span));
    }

    async fn https(self: Rc<Self>, conn: Conn) {
        let mut pass = self.pending.enter(conn.peer().ip());
        let accepted = conn.accepted();
        let handshake = self.tls.accept(conn);
        let deadline = accepted + Duration::from_millis(self.limits.handshake_ms);
        match pass.within(deadline, handshake).await {
            Ok(Ok(stream)) => {
                self.counters.handshakes.add();
                self.counters.handshake_time.record(now().since(accepted));
                self.http(stream, pass).await;
            }
            Ok(Err((error, conn))) => {
                drop(pass);
                self.handshake_failed(&error, conn).await;
            }
            Err(why) => {
                self.turned_away(why, &self.counters.handshakes_late);
            }
        }
    }

    async fn handshake_failed(&self, error: &io::Error, conn: Conn) {
        // A bare connect and close is how clients look whether a port is there.
        if error.kind() == io::ErrorKind::UnexpectedEof
            || error.kind() == io::ErrorKind::ConnectionReset
        {
            self.counters.left_early.add();
            return;
        }
        let refusal = tls::refusal(error);
        let counter = match refusal {
            Refusal::Protocol => &self.counters.handshakes_failed,
            Refusal::Unproven => &self.counters.handshakes_unproven,
            Refusal::Alerted => &self.counters.handshakes_alerted,
        };
        counter.add();
        debug!(%error, ?refusal, "handshake failed");
        // The alert should arrive.
        conn.set_reset_on_close(false);
        self.farewell(conn).await;
    }

    fn turned_away(&self, why: TurnedAway, late: &Counter) {
        match why {
            TurnedAway::Late => late.add(),
            TurnedAway::Evicted => self.counters.evicted.add(),
        }
        debug!(%why, "turned away");
    }

    async fn http<S: Stream>(self: Rc<Self>, mut stream: S, mut pass: Pass) {
        let deadline = stream.conn().accepted() + Duration::from_millis(self.limits.head_ms);
        let outcome = match pass.within(deadline, read_head(&mut stream)).await {
            Ok(outcome) => outcome,
            Err(why) => Err(NoRequest::TurnedAway(why)),
        };
        drop(pass);
        let desk = Rc::clone(&self);
        match outcome {
            Ok(request) => {
                stream.conn().set_reset_on_close(false);
                self.shard
                    .spawn(Queue::Established, desk.answer_http(stream, request).in_current_span());
            }
            Err(NoRequest::Malformed(error)) => {
                self.counters.http_malformed.add();
                debug!(%error, "malformed request");
                stream.conn().set_reset_on_close(false);
                let refusal = Response::refusal(error).to_bytes();
                self.deliver(stream, &refusal).await;
            }
            Err(NoRequest::Left) => self.counters.left_early.add(),
            Err(NoRequest::TurnedAway(why)) => self.turned_away(why, &self.counters.heads_late),
        }
    }

    async fn answer_http<S: Stream>(self: Rc<Self>, mut stream: S, request: Request) {
        self.counters.http_requests.add();
        let accepted = stream.conn().accepted();
        let caller = Caller {
            peer: stream.conn().peer(),
            local: stream.conn().local(),
            certificate: stream.certificate(),
            tls: S::TLS,
        };
        debug!(path = request.path, tls = S::TLS, paired = caller.certificate.is_some(), "request");
        let call = self.core.call(|call| Event::Http { call, caller, request });
        let Some((answer, waited)) = self.wait(call, &mut stream).await else { return };
        let bytes = match answer {
            Answer::Http(response) => response.to_bytes(),
            Answer::Rtsp(_) | Answer::Close => Vec::new(),
        };
        if self.deliver(stream, &bytes).await && !waited {
            self.counters.answer_time.record(now().since(accepted));
        }
    }

    async fn rtsp(self: Rc<Self>, mut conn: Conn) {
        let mut pass = self.pending.enter(conn.peer().ip());
        let deadline = conn.accepted() + Duration::from_millis(self.limits.head_ms);
        let outcome = match pass.within(deadline, read_message(&mut conn)).await {
            Ok(outcome) => outcome,
            Err(why) => Err(NoRequest::TurnedAway(why)),
        };
        drop(pass);
        let desk = Rc::clone(&self);
        match outcome {
            Ok(wire) => {
                conn.set_reset_on_close(false);
                self.shard
                    .spawn(Queue::Established, desk.answer_rtsp(conn, wire).in_current_span());
            }
            Err(NoRequest::Malformed((error, sealed))) => {
                self.counters.rtsp_malformed.add();
                debug!(%error, sealed, "malformed message");
                conn.set_reset_on_close(false);
                // There is no answer in plaintext to what came sealed.
                let refusal = match sealed {
                    true => Vec::new(),
                    false => rtsp::Response::new(error.status(), error.cseq()).write(),
                };
                self.deliver(conn, &refusal).await;
            }
            Err(NoRequest::Left) => self.counters.left_early.add(),
            Err(NoRequest::TurnedAway(why)) => self.turned_away(why, &self.counters.heads_late),
        }
    }

    async fn answer_rtsp(self: Rc<Self>, mut conn: Conn, wire: Vec<u8>) {
        self.counters.rtsp_requests.add();
        let (peer, local) = (conn.peer(), conn.local());
        let call = self.core.call(|call| Event::Rtsp { call, peer, local, wire });
        let Some((answer, _)) = self.wait(call, &mut conn).await else { return };
        let bytes = match answer {
            Answer::Rtsp(bytes) => bytes,
            Answer::Close => {
                self.counters.rtsp_refused.add();
                debug!("no pending launch has the key of this message");
                Vec::new()
            }
            Answer::Http(_) => Vec::new(),
        };
        self.deliver(conn, &bytes).await;
    }

    /// The host's answer, and whether it took time. None: the peer went away or the host forgot it;
    /// dropping the call has told the host.
    async fn wait<S: Stream>(&self, mut call: Call, stream: &mut S) -> Option<(Answer, bool)> {
        if let std::task::Poll::Ready(answer) = futures_util::poll!(&mut call) {
            return Some((answer, false));
        }
        let longest = self.limits.pin_ms.max(self.limits.launch_ms).max(self.limits.grant_ms);
        let deadline = now() + Duration::from_millis(longest) + CALL_SLACK;
        let mut left = pin!(watch(stream));
        match timeout_at(deadline, select(&mut call, &mut left)).await {
            Ok(Either::Left((answer, _))) => Some((answer, true)),
            Ok(Either::Right(_)) => {
                self.counters.calls_gone.add();
                debug!("the client left before its answer");
                None
            }
            Err(_) => {
                self.counters.calls_unanswered.add();
                tracing::error!("the host did not answer; closing");
                None
            }
        }
    }

    /// Writes an answer, ends the stream in the order that loses nothing, and closes. True: all of it
    /// went out.
    async fn deliver<S: Stream>(&self, mut stream: S, bytes: &[u8]) -> bool {
        let peer: IpAddr = stream.conn().peer().ip();
        let mut pass = self.answering.enter(peer);
        let deadline = now() + Duration::from_millis(self.limits.write_ms);
        match pass.within(deadline, stream.finish(bytes)).await {
            Ok(Ok(())) => {
                self.counters.answers.add();
                let conn = stream.into_conn();
                let _ = pass.within(now() + FAREWELL, drain(conn)).await;
                true
            }
            Ok(Err(error)) => {
                self.counters.answers_lost.add();
                debug!(%error, "the answer could not be written");
                false
            }
            Err(why) => {
                stream.conn().set_reset_on_close(true);
                match why {
                    TurnedAway::Late => self.counters.answers_late.add(),
                    TurnedAway::Evicted => self.counters.answers_lost.add(),
                }
                debug!(%why, "the answer was not taken");
                false
            }
        }
    }

    /// Ends a connection that gets no answer beyond what was written already.
    async fn farewell(&self, mut conn: Conn) {
        let mut pass = self.answering.enter(conn.peer().ip());
        let _ = conn.close().await;
        let _ = pass.within(now() + FAREWELL, drain(conn)).await;
    }
}

/// Reads one request head.
async fn read_head<S: Stream>(stream: &mut S) -> Result<Request, NoRequest<HttpError>> {
    let mut bytes = Vec::new();
    let mut parsed = 0;
    loop {
        let start = bytes.len();
        bytes.resize(start + READ_BYTES, 0);
        match stream.read(&mut bytes[start..]).await {
            Ok(0) | Err(_) => return Err(NoRequest::Left),
            Ok(n) => bytes.truncate(start + n),
        }
        // Parsing starts from the front each time: only where it can tell something new, so that a
        // head in single bytes costs no more than its lines.
        let telling = bytes[start..].iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0));
        if parsed == 0 || telling || bytes.len() - parsed >= READ_BYTES {
            parsed = bytes.len();
            match Head::parse(&bytes) {
                Ok(Some((request, _))) => return Ok(request),
                Ok(None) if bytes.len() > HTTP_HEAD_BYTES_MAX => {
                    return Err(NoRequest::Malformed(HttpError::HeadTooLong));
                }
                Ok(None) => {}
                Err(error) => return Err(NoRequest::Malformed(error)),
            }
        }
    }
}

/// Reads one RTSP message as it is on the wire. The error tells whether it was a sealed one.
async fn read_message(conn: &mut Conn) -> Result<Vec<u8>, NoRequest<(FrameError, bool)>> {
    let mut framer = Framer::new();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let n = match conn.read(&mut chunk).await {
            Ok(0) | Err(_) => return Err(NoRequest::Left),
            Ok(n) => n,
        };
        match framer.push(&chunk[..n]) {
            Ok(Some(Frame::Plain(wire) | Frame::Sealed(wire))) => return Ok(wire),
            Ok(None) => {}
            Err(error) => return Err(NoRequest::Malformed((error, framer.is_sealed()))),
        }
    }
}

/// Ends when the peer has left, or sends more than a waiting client would.
async fn watch<S: Stream>(stream: &mut S) {
    let mut surplus = 0;
    let mut chunk = [0; 256];
    while surplus < SURPLUS_BYTES_MAX {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => surplus += n,
        }
    }
}

/// Reads until the peer closes, so that closing with unread bytes does not become a reset.
async fn drain(mut conn: Conn) {
    let mut surplus = 0;
    let mut chunk = [0; 512];
    while surplus < SURPLUS_BYTES_MAX {
        match conn.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => surplus += n,
        }
    }
}

const _: () = assert!(READ_BYTES < HTTP_HEAD_BYTES_MAX);
const _: () = assert!(SURPLUS_BYTES_MAX >= HTTP_HEAD_BYTES_MAX);
