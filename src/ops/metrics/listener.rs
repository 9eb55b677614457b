//! The operators' port: one GET per connection over plain HTTP, few connections, hard deadlines.
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::board::{Board, Known};
use super::readiness::Readiness;
use super::text;
use crate::config::Metrics;
use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::ops::doctor;
use crate::proto::http::{Head, HttpError};

/// Connections at once; more are closed unanswered.
const CONNECTIONS_MAX: usize = 16;
/// From accept to the end of the request's head, and once more for the answer to be taken.
const DEADLINE: Duration = Duration::from_secs(2);
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

/// Listens and answers on threads of its own, to the end of the process. Returns where.
///
/// # Errors
/// The port cannot be had, or there is no thread.
pub fn start(config: Metrics, board: Arc<Board>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((config.address, config.port))?;
    let at = listener.local_addr()?;
    let accept = move || {
        let (open, readiness) = (Arc::new(AtomicUsize::new(0)), Arc::new(Readiness::default()));
        loop {
            let Ok((peer, _)) = listener.accept() else {
                // Out of descriptors, most likely.
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            let seat = Seat::take(&open);
            if open.load(Ordering::Relaxed) > CONNECTIONS_MAX {
                continue;
            }
            let (board, readiness) = (Arc::clone(&board), Arc::clone(&readiness));
            let serve = move || {
                let _seat = seat;
                if let Err(error) = serve(peer, &board, &readiness) {
                    tracing::debug!(%error, "an operator was not answered");
                }
            };
            let _ = std::thread::Builder::new().name("operator".into()).spawn(serve);
        }
    };
    std::thread::Builder::new().name("operators".into()).spawn(accept)?;
    Ok(at)
}

/// One of the connections, counted as long as it lasts.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve(mut peer: TcpStream, board: &Board, readiness: &Readiness) -> io::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    let mut head = Vec::new();
    let answer = loop {
        match Head::parse(&head) {
            Ok(Some((request, _))) => break answer(&request.path, &board.known(), readiness),
            Err(error) => break refusal(error),
            Ok(None) if head.len() > HTTP_HEAD_BYTES_MAX => break refusal(HttpError::HeadTooLong),
            Ok(None) => {}
        }
        peer.set_read_timeout(Some(left(deadline)?))?;
        let mut bytes = [0; 2048];
        match peer.read(&mut bytes)? {
            0 => return Ok(()),
            count => head.extend(&bytes[..count]),
        }
    };
    let Answer { status, kind, body } = answer;
    let length = body.len();
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    );
    bytes += &body;
    let (deadline, mut rest) = (Instant::now() + DEADLINE, bytes.as_bytes());
    while !rest.is_empty() {
        peer.set_write_timeout(Some(left(deadline)?))?;
        let written = peer.write(rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn refusal(error: HttpError) -> Answer {
    let status =
        if error == HttpError::Method { "405 Method Not Allowed" } else { "400 Bad Request" };
    Answer { status, kind: "text/plain", body: format!("{error}\n") }
}

fn verdict(good: &str, reasons: &[String], rest: serde_json::Value) -> Answer {
    let status = if reasons.is_empty() { "200 OK" } else { "503 Service Unavailable" };
    let word = if reasons.is_empty() { good } else { "failed" };
    let mut body = json!({ "status": word, "reasons": reasons });
    if let (Some(body), serde_json::Value::Object(rest)) = (body.as_object_mut(), rest) {
        body.extend(rest);
    }
    Answer { status, kind: "application/json", body: format!("{body}\n") }
}

fn answer(path: &str, known: &Known, readiness: &Readiness) -> Answer {
    let now_ns = crate::shard::now().0;
    let age = known.encoder.probed.map(|at| at.elapsed().as_secs());
    let encoder = json!({ "name": known.encoder.name, "reason": known.encoder.reason,
        "probe_age_seconds": age });
    let seats = json!({ "used": known.sessions.len(), "free": known.free_seats(),
        "total": known.seats });
    match path {
        "/metrics" => match text::metrics(known.clone(), now_ns) {
            Ok(body) => Answer {
                status: "200 OK",
                kind: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                body,
            },
            Err(_) => Answer {
                status: "500 Internal Server Error",
                kind: "text/plain",
                body: "the figures cannot be written as text\n".into(),
            },
        },
        "/healthz" => {
            let front = json!({ "front_pid": known.front.as_ref().map(|front| front.pid),
                "front_starts": known.front_starts });
            verdict("ok", &known.ailments(now_ns), front)
        }
        "/readyz" => {
            let obstacles = readiness.obstacles(known, now_ns);
            verdict("ready", &obstacles, json!({ "seats": seats, "encoder": encoder }))
        }
        "/capacity" => {
            // Sessions do not say which GPU they load: how its seats divide is unknown.
            let gpu = |(device, vendor): (String, Option<String>)| json!({ "device": device, "vendor": vendor, "seats": null });
            let gpus: Vec<_> = doctor::gpus().into_iter().map(gpu).collect();
            let all = json!({ "seats": seats, "draining": known.stopping, "encoder": encoder,
                "gpus": gpus });
            verdict("ok", &[], all)
        }
        _ => Answer {
            status: "404 Not Found",
            kind: "text/plain",
            body: "here are /metrics, /healthz, /readyz and /capacity\n".into(),
        },
    }
}
