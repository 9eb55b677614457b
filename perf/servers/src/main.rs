//! The servers that moonshard is measured against. Each is one thread with one epoll loop that answers
//! every request with the same bytes and closes; they differ in the TLS library and in who may block.
//! No deadlines, no admission, no counters: what is left out is what moonshard's own cost is made of.
//!
//! `moonshard-perf bare STATE BYTES`: rustls with the host's own settings: the floor with sockets.
//! `moonshard-perf wolf STATE BYTES`: OpenSSL, and a handler of /cancel that blocks its thread for
//! five seconds, as a GStreamer call did in the outage. STATE is the host's state directory, BYTES the
//! size of the answer's body. The port goes to standard output.
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
    let [shape, state, bytes] = arguments.as_slice() else {
        return Err("usage: moonshard-perf bare|wolf STATE BYTES".into());
    };
    let (state, body) = (Path::new(state), vec![b'x'; bytes.parse()?]);
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);
    match shape.as_str() {
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
