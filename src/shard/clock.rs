//! The shard's clock and timers, in the crate's own [`Time`].
use std::future::Future;
use std::pin::pin;

use futures_util::future::{Either, select};
use glommio::timer::Timer;

use crate::time::Time;

/// CLOCK_MONOTONIC now. Callable from any thread.
pub fn now() -> Time {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    Time(seconds * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0))
}

/// Sleeps until `deadline`; only within a shard.
pub async fn sleep_until(deadline: Time) {
    Timer::new(deadline.since(now())).await;
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed")]
pub struct Late;

/// Runs `future` until `deadline` and drops it then; only within a shard.
pub async fn timeout_at<T>(deadline: Time, future: impl Future<Output = T>) -> Result<T, Late> {
    match select(pin!(future), pin!(sleep_until(deadline))).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(_) => Err(Late),
    }
}
