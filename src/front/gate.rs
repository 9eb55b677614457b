//! One shard's gate: carries out what `admission` decides on connections that wait.
//!
//! A waiting connection holds a [`Pass`]. When the pass is taken back, or the deadline comes, what it
//! was doing is dropped, and with it the connection.
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;

use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::admission::{Admission, Ticket};
use crate::shard::timeout_at;
use crate::time::Time;

/// Why a connection may not wait any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnedAway {
    /// Its deadline passed.
    #[error("too slow")]
    Late,
    /// It made room for another.
    #[error("made room for others")]
    Evicted,
}

/// The waiting connections of one kind on one shard.
#[derive(Clone)]
pub struct Gate(Rc<RefCell<Inner>>);

struct Inner {
    admission: Admission,
    /// Dropping the sender takes the pass back.
    passes: BTreeMap<Ticket, oneshot::Sender<()>>,
}

impl Gate {
    /// Room for `capacity` connections.
    pub fn new(capacity: usize) -> Self {
        let inner = Inner { admission: Admission::new(capacity), passes: BTreeMap::new() };
        Self(Rc::new(RefCell::new(inner)))
    }

    /// Always lets one more in; another may have to leave for it.
    pub fn enter(&self, source: IpAddr) -> Pass {
        let (sender, taken) = oneshot::channel();
        let mut inner = self.0.borrow_mut();
        let (ticket, evicted) = inner.admission.enter(source);
        let out = evicted.and_then(|evicted| inner.passes.remove(&evicted));
        inner.passes.insert(ticket, sender);
        drop(inner);
        drop(out);
        Pass { gate: self.clone(), ticket, taken }
    }
}

/// The right to wait. Given back when dropped.
pub struct Pass {
    gate: Gate,
    ticket: Ticket,
    taken: oneshot::Receiver<()>,
}

impl Pass {
    /// Does `work` while the pass holds and until `deadline`.
    pub async fn within<T>(
        &mut self,
        deadline: Time,
        work: impl Future<Output = T>,
    ) -> Result<T, TurnedAway> {
        match select(pin!(timeout_at(deadline, work)), &mut self.taken).await {
            Either::Left((done, _)) => done.map_err(|_| TurnedAway::Late),
            Either::Right(_) => Err(TurnedAway::Evicted),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inner = self.gate.0.borrow_mut();
        inner.admission.leave(self.ticket);
        inner.passes.remove(&self.ticket);
    }
}
