//! Shards: one glommio executor per control core. The only module that names the runtime.
//!
//! It knows sockets, timers and tasks, and nothing of what is spoken over them: everything above it
//! sees `AsyncRead`, `AsyncWrite`, [`Time`](crate::time::Time) and futures. No call here or in a task
//! may block: a shard that waits for anything but its ring serves nobody.
//!
//! What the runtime does not guard is guarded here: a task that panics ends alone ([`Shard::spawn`]),
//! accepted sockets are closed on exec, and an exhausted process does not spin ([`Listener`]).
mod clock;
mod listen;
mod tls;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use futures_util::FutureExt;
use glommio::{
    ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle,
};

use crate::proc::histogram::Histogram;

pub use self::clock::{Late, now, sleep_until, timeout_at};
pub use self::listen::{
    Conn, ListenFigures, Listener, ListenerEnded, canonical, revive, take_queued,
};
pub use self::tls::{TlsAcceptor, TlsConn};

/// Bytes that each ring registers for file I/O, which a shard never does: the least allowed.
const IO_MEMORY_BYTES: usize = 64 * 1024;
/// Submission entries per ring.
const RING_DEPTH: usize = 256;
/// A task queue gives way to the other after this long.
const PREEMPT_AFTER: Duration = Duration::from_millis(5);
/// How often a shard shows that it still turns.
pub const BEAT_EVERY: Duration = Duration::from_millis(200);

/// Which share of a shard's time a task draws on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Accepting, handshakes and requests that are not there yet: what a flood fills.
    Admission,
    /// Requests that are there and their answers; four times the share.
    Established,
}

/// The shard that the calling task runs on. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Shard {
    index: usize,
    admission: TaskQueueHandle,
    established: TaskQueueHandle,
    vitals: Arc<Vitals>,
    tasks: Rc<Cell<usize>>,
}

/// What one shard shows to the rest of the process.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Of the shard's thread; zero: not running yet.
    thread: AtomicI32,
    beat: AtomicU64,
    panics: AtomicU64,
    tasks: AtomicU64,
    lag: Histogram,
}

impl Vitals {
    /// When the shard last turned; zero: never yet.
    pub fn last_beat(&self) -> crate::time::Time {
        crate::time::Time(self.beat.load(Ordering::Relaxed))
    }

    /// How long the shard's thread has been ready to run without a core to run on, since its start:
    /// what the machine and not the shard is to blame for. Zero where the system does not tell.
    pub fn starved(&self) -> Duration {
        let path = format!("/proc/self/task/{}/schedstat", self.thread.load(Ordering::Relaxed));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let waited = text.split_ascii_whitespace().nth(1).and_then(|ns| ns.parse().ok());
        Duration::from_nanos(waited.unwrap_or(0))
    }

    /// How late the beat's timer was served: how long any other timer or socket had to wait.
    pub fn lag(&self) -> &Histogram {
        &self.lag
    }

    /// Tasks that ended by a panic.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Tasks that exist now.
    pub fn tasks(&self) -> u64 {
        self.tasks.load(Ordering::Relaxed)
    }
}

impl Shard {
    /// Counts shards from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Runs `task` on this shard. A panic ends the task alone; it is counted and logged.
    pub fn spawn(&self, queue: Queue, task: impl Future<Output = ()> + 'static) {
        let handle = match queue {
            Queue::Admission => self.admission,
            Queue::Established => self.established,
        };
        let counted = Counted::new(self);
        let index = self.index;
        let guarded = async move {
            let counted = counted;
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                counted.vitals.panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(shard = index, "a task panicked; only its connection is lost");
            }
        };
        match glommio::spawn_local_into(guarded, handle) {
            Ok(task) => drop(task.detach()),
            Err(error) => tracing::error!(shard = index, %error, "a task could not be started"),
        }
    }

    /// Tasks on this shard now.
    pub fn tasks(&self) -> usize {
        self.tasks.get()
    }

    /// Lets other tasks run if this one has had its turn.
    pub async fn yield_if_needed(&self) {
        glommio::yield_if_needed().await;
    }

    async fn beat(self) {
        loop {
            self.vitals.beat.store(now().0, Ordering::Relaxed);
            let due = now() + BEAT_EVERY;
            sleep_until(due).await;
            self.vitals.lag.record(now().since(due));
        }
    }
}

/// Keeps the number of tasks, on every way a task can end.
struct Counted {
    tasks: Rc<Cell<usize>>,
    vitals: Arc<Vitals>,
}

impl Counted {
    fn new(shard: &Shard) -> Self {
        shard.tasks.set(shard.tasks.get() + 1);
        shard.vitals.tasks.fetch_add(1, Ordering::Relaxed);
        Self { tasks: Rc::clone(&shard.tasks), vitals: Arc::clone(&shard.vitals) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tasks.set(self.tasks.get() - 1);
        self.vitals.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The running shards.
pub struct Shards {
    handles: Vec<ExecutorJoinHandle<()>>,
    vitals: Vec<Arc<Vitals>>,
    ends: Receiver<End>,
}

/// A shard's thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub shard: usize,
    /// False: by a panic.
    pub orderly: bool,
}

/// Starts one shard per input, each pinned to its core (None: not pinned), running `program` with
/// that input. A shard ends, with all its tasks, when its program returns.
///
/// # Errors
/// If a thread or its rings cannot be made; the shards before it end.
pub fn start<T, F, P>(inputs: Vec<(Option<usize>, T)>, program: F) -> io::Result<Shards>
where
    T: Send + 'static,
    F: Fn(Shard, T) -> P + Clone + Send + 'static,
    P: Future<Output = ()> + 'static,
{
    let (sender, ends) = channel();
    let mut shards = Shards { handles: Vec::new(), vitals: Vec::new(), ends };
    for (index, (core, input)) in inputs.into_iter().enumerate() {
        let vitals = Arc::new(Vitals::default());
        shards.vitals.push(Arc::clone(&vitals));
        let program = program.clone();
        let notice = EndNotice { sender: sender.clone(), shard: index, orderly: false };
        let handle = LocalExecutorBuilder::new(core.map_or(Placement::Unbound, Placement::Fixed))
            .name(&format!("shard-{index}"))
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT_AFTER)
            .spawn(move || async move {
                let mut notice = notice;
                let thread = rustix::thread::gettid().as_raw_nonzero().get();
                vitals.thread.store(thread, Ordering::Relaxed);
                let shard = Shard {
                    index,
                    admission: queue("admission", 250),
                    established: queue("established", 1000),
                    vitals,
                    tasks: Rc::default(),
                };
                let beat = glommio::spawn_local(shard.clone().beat());
                program(shard, input).await;
                beat.cancel().await;
                notice.orderly = true;
            })
            .map_err(|e| io::Error::other(e.to_string()))?;
        shards.handles.push(handle);
    }
    Ok(shards)
}

fn queue(name: &str, shares: usize) -> TaskQueueHandle {
    glommio::executor().create_task_queue(Shares::Static(shares), Latency::NotImportant, name)
}

impl Shards {
    /// What each shard shows of itself.
    pub fn vitals(&self) -> &[Arc<Vitals>] {
        &self.vitals
    }

    /// The next shard that ends within `wait`.
    pub fn next_end(&self, wait: Duration) -> Option<End> {
        self.ends.recv_timeout(wait).ok()
    }

    /// Waits until all have ended; true if none panicked.
    pub fn join(self) -> bool {
        self.handles.into_iter().map(ExecutorJoinHandle::join).fold(true, |all, r| all & r.is_ok())
    }
}

/// Tells of a shard's end, also when its thread unwinds.
struct EndNotice {
    sender: Sender<End>,
    shard: usize,
    orderly: bool,
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        let _ = self.sender.send(End { shard: self.shard, orderly: self.orderly });
    }
}
