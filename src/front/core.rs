//! The host behind its mutex: events go in from shards and threads, answers and effects come out.
//!
//! The lock is held while the host decides, for microseconds, and never across an await. Effects are
//! queued under it, so their order is the host's; whoever carries them out (the bus) never holds it.
//! A call that is dropped before its answer tells the host so: no path can forget a waiting client.
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_channel::oneshot;
use rustix::event::EventfdFlags;

use super::counters::Counters;
use super::launches::Launches;
use crate::host::event::{Answer, CallId, Effect, Event, HostFacts, Route};
use crate::ipc::SessionId;
use crate::proto::ping::Payload;
use crate::proto::stream::Flow;
use crate::shard::now;
use crate::time::{Entropy, Time};

/// Effects that may wait for the bus. It never blocks, so this is reached only when it is dead.
const EFFECTS_MAX: usize = 16_384;

/// What the front needs of the host; a test can put a scripted one in its place.
pub trait Machine: Send {
    fn handle(
        &mut self,
        event: Event,
        now: Time,
        entropy: &mut dyn Entropy,
        effects: &mut Vec<Effect>,
    );
    /// When it wants an `Event::Timeout`.
    fn next_timeout(&self) -> Option<Time>;
    /// Whose the ping is; None: a legacy one without payload.
    fn route_ping(
        &mut self,
        flow: Flow,
        payload: Option<&Payload>,
        source: SocketAddr,
        now: Time,
    ) -> Route;
    /// Whose the ENet CONNECT with this data is.
    fn route_connect(&mut self, data: u32, source: SocketAddr, now: Time) -> Route;
    /// Whose the datagram of this ENet peer is.
    fn route_peer(&mut self, peer_id: u16, source: SocketAddr, now: Time) -> Route;
    /// The datagram that ends the client of a dead session.
    fn last_will(&mut self, session: SessionId) -> Option<Vec<u8>>;
    /// New facts about the machine.
    fn learn(&mut self, facts: HostFacts);
}

/// The operating system's randomness.
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::rand::getrandom(
                &mut bytes[filled..],
                rustix::rand::GetRandomFlags::empty(),
            ) {
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                // Without randomness there is no key, no PIN and no id worth giving out.
                Err(error) => panic!("getrandom: {error}"),
            }
        }
    }
}

struct Inner {
    machine: Box<dyn Machine>,
    entropy: Box<dyn Entropy + Send>,
    calls: BTreeMap<CallId, oneshot::Sender<Answer>>,
    next_call: u64,
    effects: VecDeque<Effect>,
    launches: Launches,
    /// The timeout that the bus knows of.
    armed: Option<Time>,
}

/// Shared by all shards and threads of the front.
pub struct Core {
    inner: Mutex<Inner>,
    /// Readable when there are effects or an earlier timeout.
    wake: OwnedFd,
    counters: Arc<Counters>,
}

impl Core {
    /// # Errors
    /// If the system gives no eventfd.
    pub fn new(
        machine: Box<dyn Machine>,
        entropy: Box<dyn Entropy + Send>,
        counters: Arc<Counters>,
    ) -> std::io::Result<Arc<Self>> {
        let inner = Inner {
            machine,
            entropy,
            calls: BTreeMap::new(),
            next_call: 0,
            effects: VecDeque::new(),
            launches: Launches::new(Arc::clone(&counters)),
            armed: None,
        };
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { inner: Mutex::new(inner), wake, counters }))
    }

    /// Tells the host what happened.
    pub fn dispatch(&self, event: Event) {
        self.run(&mut self.lock(), event);
    }

    /// Asks the host; the future gives its answer. `event` gets the call's number.
    pub fn call(self: &Arc<Self>, event: impl FnOnce(CallId) -> Event) -> Call {
        let (sender, answer) = oneshot::channel();
        let mut inner = self.lock();
        let id = CallId(inner.next_call);
        inner.next_call += 1;
        inner.calls.insert(id, sender);
        if !self.run(&mut inner, event(id)) {
            // It will not be answered: the future ends at once.
            inner.calls.remove(&id);
        }
        drop(inner);
        Call { core: Arc::clone(self), id, answer, over: false }
    }

    /// Asks the host whose a datagram is; nobody's if that made it panic.
    pub fn route(&self, ask: impl FnOnce(&mut dyn Machine) -> Route) -> Route {
        let mut inner = self.lock();
        let route = catch_unwind(AssertUnwindSafe(|| ask(inner.machine.as_mut())));
        route.unwrap_or_else(|_| {
            self.count_panic();
            Route::Stranger
        })
    }

    /// The datagram that ends the client of a dead session.
    pub fn last_will(&self, session: SessionId) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        let will = catch_unwind(AssertUnwindSafe(|| inner.machine.last_will(session)));
        will.unwrap_or_else(|_| {
            self.count_panic();
            None
        })
    }

    /// Tells the host new facts about the machine; another time, if it is busy: the thread that
    /// watches over the shards must not be held up by what holds them up.
    pub fn learn(&self, facts: HostFacts) {
        if let Ok(mut inner) = self.inner.try_lock() {
            inner.machine.learn(facts);
        }
    }

    /// For the bus: what is to be done, in order, and when the host wants to be woken.
    pub fn take_effects(&self) -> (VecDeque<Effect>, Option<Time>) {
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        let mut inner = self.lock();
        inner.armed = inner.machine.next_timeout();
        (std::mem::take(&mut inner.effects), inner.armed)
    }

    /// Wakes the bus.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Calls that wait for their answer.
    pub fn calls_waiting(&self) -> usize {
        self.lock().calls.len()
    }

    /// Ends every waiting call without a word, as at a shutdown.
    pub fn hang_up(&self) {
        let calls = std::mem::take(&mut self.lock().calls);
        drop(calls);
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// A panic leaves the host usable: what it had decided before stands, the event's rest is lost.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: the host panicked.
    fn run(&self, inner: &mut Inner, event: Event) -> bool {
        let mut effects = Vec::new();
        let time = now();
        inner.launches.on_event(&event, time);
        let Inner { machine, entropy, .. } = inner;
        let handled = catch_unwind(AssertUnwindSafe(|| {
            machine.handle(event, time, entropy.as_mut(), &mut effects);
        }));
        if handled.is_err() {
            self.count_panic();
        }
        let mut news = false;
        for effect in effects {
            inner.launches.on_effect(&effect, time);
            match effect {
                Effect::Answer { call, answer } => {
                    if let Some(waiting) = inner.calls.remove(&call) {
                        let _ = waiting.send(answer);
                    }
                }
                _ if inner.effects.len() >= EFFECTS_MAX => self.counters.effects_dropped.add(),
                effect => {
                    inner.effects.push_back(effect);
                    news = true;
                }
            }
        }
        let next = inner.machine.next_timeout();
        let earlier = next.is_some_and(|next| inner.armed.is_none_or(|armed| next < armed));
        if earlier {
            inner.armed = next;
        }
        if news || earlier {
            self.wake();
        }
        handled.is_ok()
    }

    fn count_panic(&self) {
        self.counters.host_panics.add();
        tracing::error!("the host panicked on an event; the event is lost");
    }
}

/// Readable when [`Core::take_effects`] has something.
impl AsFd for Core {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// A question to the host. Dropped before the answer, it tells the host that nobody waits.
pub struct Call {
    core: Arc<Core>,
    id: CallId,
    answer: oneshot::Receiver<Answer>,
    over: bool,
}

impl Future for Call {
    type Output = Answer;

    /// `Answer::Close` if the host will not answer.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        // A call that was hung up still has to be taken back from the host.
        self.over = answer.is_ok();
        Poll::Ready(answer.unwrap_or(Answer::Close))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut inner = self.core.lock();
        let waiting = inner.calls.remove(&self.id).is_some();
        // The answer may be on its way unseen; then the host has nothing to take back.
        if waiting || !matches!(self.answer.try_recv(), Ok(Some(_))) {
            self.core.run(&mut inner, Event::CallGone { call: self.id });
        }
    }
}
