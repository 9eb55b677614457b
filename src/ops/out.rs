//! What a process that serves says on its standard output and error, without ever waiting for them: a
//! terminal that was stopped, or a pipe that nobody reads, must stop no host.
//!
//! Each of the two has one thread that writes, and a bounded queue. Full: what comes is lost, and how much
//! was lost is told as soon as there is room.
#![expect(unsafe_code, reason = "the writing threads must not take this process's signals")]
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Texts that wait.
const QUEUE_MAX: usize = 1024;
/// A text is cut to so many bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// How long the end of a process waits for what it has said to be out.
const FLUSH_MAX: Duration = Duration::from_millis(300);

enum Item {
    Text(Vec<u8>),
    /// All before this is out.
    Mark(SyncSender<()>),
}

/// One of the two.
struct Out {
    /// None: no thread could be made; then it is written at once.
    queue: Option<SyncSender<Item>>,
    lost: AtomicU64,
}

static STDOUT: OnceLock<Out> = OnceLock::new();
static STDERR: OnceLock<Out> = OnceLock::new();

/// Says `text` on standard output. A closed one is nobody's loss.
pub fn say(text: &str) {
    stdout().put(text.as_bytes().to_vec(), &mut io::stdout());
}

/// Says `text` on standard error.
pub fn complain(text: &str) {
    stderr().put(text.as_bytes().to_vec(), &mut io::stderr());
}

/// Waits for what was said to be out, but not long. To be called at the end of a process.
pub fn flush() {
    let deadline = Instant::now() + FLUSH_MAX;
    for out in [STDOUT.get(), STDERR.get()].into_iter().flatten() {
        out.flush(deadline);
    }
}

fn stdout() -> &'static Out {
    STDOUT.get_or_init(|| Out::start("stdout", &STDOUT, io::stdout()))
}

fn stderr() -> &'static Out {
    STDERR.get_or_init(|| Out::start("stderr", &STDERR, io::stderr()))
}

impl Out {
    fn start(name: &str, own: &'static OnceLock<Self>, to: impl Write + Send + 'static) -> Self {
        let (queue, items) = sync_channel(QUEUE_MAX);
        let work = move || write_all(&items, own, to);
        let thread =
            without_signals(|| std::thread::Builder::new().name(name.to_owned()).spawn(work));
        Self { queue: thread.ok().map(|_| queue), lost: AtomicU64::new(0) }
    }

    fn put(&self, mut text: Vec<u8>, direct: &mut dyn Write) {
        text.truncate(TEXT_BYTES_MAX);
        let Some(queue) = &self.queue else {
            let _ = direct.write_all(&text).and_then(|()| direct.flush());
            return;
        };
        if queue.try_send(Item::Text(text)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, deadline: Instant) {
        let (done, is_done) = sync_channel(1);
        let Some(queue) = &self.queue else { return };
        if queue.try_send(Item::Mark(done)).is_ok() {
            let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

/// The work of a writing thread.
fn write_all(items: &Receiver<Item>, own: &OnceLock<Out>, mut to: impl Write) {
    while let Ok(item) = items.recv() {
        let _ = match item {
            Item::Text(text) => to.write_all(&text).and_then(|()| to.flush()),
            Item::Mark(done) => done.send(()).map_err(io::Error::other),
        };
        let lost = own.get().map_or(0, |out| out.lost.swap(0, Ordering::Relaxed));
        if lost > 0 {
            let _ = writeln!(to, "({lost} lines were lost: nobody read them in time)");
        }
    }
}

/// Threads that are started within take no signal: each has its one place in this process.
fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: two signal sets of this function's own, which the calls fill.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let started = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        started
    }
}

/// Makes a line of the log a text for standard error.
pub(super) struct Stderr;

/// One line.
pub(super) struct Line(Vec<u8>);

impl MakeWriter<'_> for Stderr {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Vec::new())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        stderr().put(std::mem::take(&mut self.0), &mut io::stderr());
    }
}
