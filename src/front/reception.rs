//! The front's shards: their listeners, what each serves with, and how they come to an end.
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{AbortHandle, Abortable};

use super::core::Core;
use super::gate::Gate;
use super::serve::Desk;
use crate::config::Limits;
use crate::shard::{self, Listener, Queue, Shard, Shards, TlsAcceptor, now, sleep_until};

/// How long the shards may take to start.
const START_MAX: Duration = Duration::from_secs(5);
/// At a drain, calls that still wait (for a PIN, for an app) are hung up after this.
const HANG_UP_AFTER: Duration = Duration::from_secs(2);
/// And whatever is left then is cut off.
const DRAIN_MAX: Duration = Duration::from_secs(5);

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

/// The running shards.
pub struct Reception {
    shards: Shards,
    core: Arc<Core>,
    drains: Vec<oneshot::Sender<()>>,
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
        let (mut drains, mut inputs) = (Vec::new(), Vec::new());
        for place in places {
            let (sender, drain) = oneshot::channel();
            drains.push(sender);
            inputs.push((place.core, (place.listeners, drain)));
        }
        let (ready, all_ready) = channel();
        let host = Arc::clone(core);
        let shards = shard::start(inputs, move |shard, (listeners, drain)| {
            let desk = Desk {
                counters: Arc::clone(host.counters()),
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
                let accepting = accept_all(&desk, listeners);
                let _ = ready.send(());
                // Cancelled: the reception was dropped, and no more connections are wanted either.
                let _: Result<(), oneshot::Canceled> = drain.await;
                accepting.iter().for_each(AbortHandle::abort);
                finish(&desk.shard).await;
            }
        })?;
        for _ in 0..count {
            all_ready.recv_timeout(START_MAX).map_err(io::Error::other)?;
        }
        Ok(Self { shards, core: Arc::clone(core), drains })
    }

    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// No new connections. What is in progress may finish: answers at once, waiting calls for a moment.
    /// True if everything ended in time.
    pub fn drain(&mut self) -> bool {
        tracing::info!(calls = self.core.calls_waiting(), "draining");
        let start = now();
        self.drains.drain(..).for_each(|drain| _ = drain.send(()));
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
fn accept_all(desk: &Rc<Desk>, listeners: [OwnedFd; 3]) -> Vec<AbortHandle> {
    let start = |(service, fd)| {
        let listener = Listener::new(fd, desk.counters.listener(service));
        let (handle, registration) = AbortHandle::new_pair();
        let accepting = accept(Rc::clone(desk), service, listener);
        desk.shard.spawn(Queue::Admission, async move {
            let _ = Abortable::new(accepting, registration).await;
        });
        handle
    };
    SERVICES.into_iter().zip(listeners).map(start).collect()
}

async fn accept(desk: Rc<Desk>, service: Service, listener: Listener) {
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
