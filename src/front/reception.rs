//! The front's shards: their listeners, what each serves with, and how they come to an end.
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable};

use super::core::Core;
use super::gate::Gate;
use super::serve::Desk;
use crate::config::Limits;
use crate::shard::{self, Conn, Listener, Queue, Shard, Shards, TlsAcceptor, now, sleep_until};

/// How long the shards may take to start.
const START_MAX: Duration = Duration::from_secs(5);
/// At a drain, calls that still wait (for a PIN, for an app) are hung up after this.
const HANG_UP_AFTER: Duration = Duration::from_secs(2);
/// And whatever is left then is cut off.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Connections that a shard can be handed at once when another stands still: a listener's backlog.
const RESCUED_MAX: usize = 4096;

/// What a listener is for, in the order of the boot message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Https,
    Http,
    Rtsp,
}

const SERVICES: [Service; 3] = [Service::Https, Service::Http, Service::Rtsp];

/// Where one shard runs and what it listens on.
pub struct Place {
    /// None: not pinned.
    pub core: Option<usize>,
    /// One per [`Service`], bound and listening.
    pub listeners: [OwnedFd; 3],
}

/// From another thread to a shard.
enum Errand {
    /// A connection that was accepted for it.
    Serve(Service, OwnedFd),
    /// Stand still, as a bug would make it.
    #[cfg(test)]
    Stall(Duration),
}

/// What is kept of each shard outside of it.
struct Outside {
    /// Second handles to its listeners.
    listeners: [OwnedFd; 3],
    errands: mpsc::Sender<Errand>,
    drain: Option<oneshot::Sender<()>>,
    /// Accept loops that run.
    accepting: Arc<AtomicUsize>,
    retired: bool,
}

/// What a shard starts with.
struct Inside {
    listeners: [OwnedFd; 3],
    errands: mpsc::Receiver<Errand>,
    drain: oneshot::Receiver<()>,
    accepting: Arc<AtomicUsize>,
}

/// Counts an accept loop as long as it runs, however it ends.
struct Accepting(Arc<AtomicUsize>);

impl Accepting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The running shards.
pub struct Reception {
    shards: Shards,
    core: Arc<Core>,
    outsides: Vec<Outside>,
}

impl Reception {
    /// Starts the shards and returns once all of them accept.
    ///
    /// # Errors
    /// The system gave no thread or ring, or a shard did not start in time.
    pub fn open(
        core: &Arc<Core>,
        limits: Limits,
        tls: TlsAcceptor,
        places: Vec<Place>,
    ) -> io::Result<Self> {
        let count = places.len();
        let (mut outsides, mut insides) = (Vec::new(), Vec::new());
        for Place { core, listeners } in places {
            let (sender, drain) = oneshot::channel();
            let (errand, errands) = mpsc::channel(RESCUED_MAX);
            let accepting = Arc::new(AtomicUsize::new(0));
            let [https, http, rtsp] = &listeners;
            outsides.push(Outside {
                listeners: [https.try_clone()?, http.try_clone()?, rtsp.try_clone()?],
                errands: errand,
                drain: Some(sender),
                accepting: Arc::clone(&accepting),
                retired: false,
            });
            insides.push((core, Inside { listeners, errands, drain, accepting }));
        }
        let (ready, all_ready) = channel();
        let host = Arc::clone(core);
        let shards = shard::start(insides, move |shard, inside: Inside| {
            let desk = Desk {
                counters: host.counters().shard(shard.index()),
                pending: Gate::new(limits.pending_per_shard),
                answering: Gate::new(limits.pending_per_shard),
                core: Arc::clone(&host),
                tls: tls.clone(),
                limits,
                shard,
            };
            let ready = ready.clone();
            async move {
                let desk = Rc::new(desk);
                let mut taking_in = accept_all(&desk, inside.listeners, &inside.accepting);
                taking_in.push(run_errands(&desk, inside.errands));
                let _ = ready.send(());
                // Cancelled: the reception was dropped, and no more connections are wanted either.
                let _: Result<(), oneshot::Canceled> = inside.drain.await;
                taking_in.iter().for_each(AbortHandle::abort);
                finish(&desk.shard).await;
            }
        })?;
        for _ in 0..count {
            all_ready.recv_timeout(START_MAX).map_err(io::Error::other)?;
        }
        Ok(Self { shards, core: Arc::clone(core), outsides })
    }

    /// Takes a shard that stands still out of its group: what waits in its listeners' queues goes to
    /// the next shard, and newcomers to the others. There is no way back but another front, which
    /// listens anew. False: no other shard could take over, and nothing was changed.
    pub fn retire(&mut self, shard: usize) -> bool {
        let heir = (0..self.outsides.len()).find(|i| *i != shard && !self.outsides[*i].retired);
        let (Some(heir), Some(outside)) = (heir, self.outsides.get_mut(shard)) else {
            return false;
        };
        outside.retired = true;
        let mut rescued = Vec::new();
        for (service, listener) in SERVICES.into_iter().zip(&outside.listeners) {
            let queued = shard::take_queued(listener.as_fd(), RESCUED_MAX);
            rescued.extend(queued.into_iter().map(|fd| Errand::Serve(service, fd)));
            if let Err(error) = rustix::net::shutdown(listener, rustix::net::Shutdown::Both) {
                tracing::warn!(shard, ?service, %error, "the listener was not shut down");
            }
        }
        tracing::warn!(shard, heir, rescued = rescued.len(), "the shard is out of its group");
        for errand in rescued {
            // Full: dropped, and thereby closed.
            if self.outsides[heir].errands.try_send(errand).is_err() {
                self.core.counters().rescues_failed.add();
            }
        }
        true
    }

    /// A shard that should accept connections and does not: one of its listeners was shut down by
    /// somebody else, or its accept loop panicked.
    pub fn find_closed(&self) -> Option<usize> {
        let closed = |outside: &Outside| {
            !outside.retired && outside.accepting.load(Ordering::Relaxed) < SERVICES.len()
        };
        self.outsides.iter().position(closed)
    }

    /// Whether the shard was taken out of its group.
    pub fn is_retired(&self, shard: usize) -> bool {
        self.outsides.get(shard).is_some_and(|outside| outside.retired)
    }

    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// No new connections. What is in progress may finish: answers at once, waiting calls for a moment.
    /// True if everything ended in time.
    pub fn drain(&mut self) -> bool {
        tracing::info!("draining");
        let start = now();
        self.outsides.iter_mut().filter_map(|o| o.drain.take()).for_each(|d| _ = d.send(()));
        let mut left = self.shards.vitals().len();
        while left > 0 && now().since(start) < DRAIN_MAX {
            if self.shards.next_end(Duration::from_millis(50)).is_some() {
                left -= 1;
            }
            if now().since(start) >= HANG_UP_AFTER {
                self.core.hang_up();
            }
        }
        left == 0
    }
}

/// Starts the accept loops of one shard.
fn accept_all(
    desk: &Rc<Desk>,
    listeners: [OwnedFd; 3],
    count: &Arc<AtomicUsize>,
) -> Vec<AbortHandle> {
    let start = |(service, fd)| {
        let listener = Listener::new(fd, desk.counters.listener(service));
        let counted = Accepting::new(count);
        until_aborted(&desk.shard, accept(Rc::clone(desk), service, listener, counted))
    };
    SERVICES.into_iter().zip(listeners).map(start).collect()
}

fn until_aborted(shard: &Shard, work: impl Future<Output = ()> + 'static) -> AbortHandle {
    let (handle, registration) = AbortHandle::new_pair();
    shard.spawn(Queue::Admission, async move {
        let _ = Abortable::new(work, registration).await;
    });
    handle
}

fn run_errands(desk: &Rc<Desk>, mut errands: mpsc::Receiver<Errand>) -> AbortHandle {
    let mine = Rc::clone(desk);
    until_aborted(&desk.shard, async move {
        while let Some(errand) = errands.next().await {
            match errand {
                Errand::Serve(service, fd) => match Conn::adopt(fd) {
                    Ok(conn) => mine.serve(service, conn),
                    Err(error) => tracing::debug!(%error, "a rescued peer is gone"),
                },
                #[cfg(test)]
                Errand::Stall(time) => std::thread::sleep(time),
            }
            mine.shard.yield_if_needed().await;
        }
    })
}

async fn accept(desk: Rc<Desk>, service: Service, listener: Listener, _counted: Accepting) {
    while let Ok(conn) = listener.accept().await {
        desk.serve(service, conn);
        desk.shard.yield_if_needed().await;
    }
    tracing::warn!(?service, "the listener was shut down; no more connections on this shard");
}

/// Waits until the shard's tasks have ended; who drains sees to it that this does not take long.
async fn finish(shard: &Shard) {
    while shard.tasks() > 0 {
        sleep_until(now() + Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
#[path = "reception_tests.rs"]
mod tests;
