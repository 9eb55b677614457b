//! The servers that moonshard is measured against. Each is one thread with one epoll loop that answers
//! every request with the same bytes and closes; they differ in the TLS library and in who may block.
//! No deadlines, no admission, no counters: what is left out is what moonshard's own cost is made of.
//!
//! `moonshard-perf bare STATE BYTES`: rustls with the host's own settings: the floor with sockets.
//! `moonshard-perf wolf STATE BYTES`: OpenSSL, and a handler of /cancel that blocks its thread for
//! five seconds, as a GStreamer call did in the outage. STATE is the host's state directory, BYTES the
//! size of the answer's body.
//! `moonshard-perf plain FLIGHTS`: no TLS, but as many bytes in as many turns: the sockets' share of
//! the floor. FLIGHTS: bytes in:out of each turn, such as 300:1800,1500:900.
//! The port goes to standard output. `moonshard-perf dial PORT FLIGHTS SECONDS` is the client of `plain`.
mod plain;
mod serve;
mod session;
#[cfg(feature = "openssl")]
mod wolf;

use std::error::Error;
use std::path::Path;

use moonshard::tls::config::server_config;
use moonshard::tls::identity::Identity;

use self::session::Rustls;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["plain", flights] => {
            let (turns, last) = plain::flights(flights)?;
            serve::run(&vec![b'x'; last], |_| {}, || Ok(plain::Plain::new(&turns)))
        }
        ["dial", port, flights, seconds] => plain::dial(port.parse()?, flights, seconds.parse()?),
        [shape, state, bytes] => secure(shape, Path::new(state), bytes.parse()?),
        _ => Err("usage: see the head of perf/servers/src/main.rs".into()),
    }
}

fn secure(shape: &str, state: &Path, bytes: usize) -> Result<(), Box<dyn Error>> {
    let body = vec![b'x'; bytes];
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);
    match shape {
        "bare" => {
            let config = server_config(&Identity::load(state)?)?;
            serve::run(&answer, |_| {}, || Rustls::new(&config))
        }
        #[cfg(feature = "openssl")]
        "wolf" => {
            let context = wolf::context(state)?;
            serve::run(&answer, wolf::handle, || wolf::OpenSsl::new(&context))
        }
        _ => Err(format!("no such server: {shape}").into()),
    }
}
