//! What the front has done, refused, dropped and tried again: atomics, readable at any time.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::reception::Service;
use crate::ipc::{Counted, Timed};
use crate::shard::ListenFigures;

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// All counters of the front. Shared by its shards and threads.
        #[derive(Debug, Default)]
        pub struct Counters {
            pub https: Arc<ListenFigures>,
            pub http: Arc<ListenFigures>,
            pub rtsp: Arc<ListenFigures>,
            /// From accept to the end of the handshake.
            pub handshake_time: Histogram,
            /// From accept to the whole answer being with the kernel; calls that had to wait excepted.
            pub answer_time: Histogram,
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        impl Counters {
            /// What the listeners of a service have met, on all shards.
            pub fn listener(&self, service: Service) -> Arc<ListenFigures> {
                Arc::clone(match service {
                    Service::Https => &self.https,
                    Service::Http => &self.http,
                    Service::Rtsp => &self.rtsp,
                })
            }

            /// Name, meaning and value of each counter.
            pub fn snapshot(&self) -> Vec<(&'static str, &'static str, u64)> {
                let mut all = vec![$((stringify!($name), concat!($($doc),+), self.$name.get())),+];
                for (listener, name) in [(&self.https, ["https_accepted", "https_exhausted", "https_vanished"]),
                    (&self.http, ["http_accepted", "http_exhausted", "http_vanished"]),
                    (&self.rtsp, ["rtsp_accepted", "rtsp_exhausted", "rtsp_vanished"])]
                {
                    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                    all.push((name[0], "Connections accepted", get(&listener.accepted)));
                    all.push((name[1], "Accepts that failed for lack of descriptors or memory", get(&listener.exhausted)));
                    all.push((name[2], "Peers gone before they were looked at", get(&listener.vanished)));
                }
                all
            }
        }
    };
}

counters! {
    /// TLS handshakes that ended
    handshakes,
    /// TLS handshakes that failed
    handshakes_failed,
    /// Connections closed because the handshake took too long
    handshakes_late,
    /// Connections closed because no request came in time
    heads_late,
    /// Connections closed to make room for others before their request was there
    evicted,
    /// Connections whose peer left before its request was there
    left_early,
    /// HTTP requests handed to the host
    http_requests,
    /// HTTP requests that were malformed
    http_malformed,
    /// RTSP messages handed to the host
    rtsp_requests,
    /// RTSP messages that were malformed or too long
    rtsp_malformed,
    /// RTSP messages that no pending launch's key opens, or that were repeated; closed without a word
    rtsp_refused,
    /// Answers written completely
    answers,
    /// Answers given up because the peer did not take them in time
    answers_late,
    /// Answers given up because the connection broke or made room for others
    answers_lost,
    /// Waiting requests whose peer went away
    calls_gone,
    /// Waiting requests that the host never answered
    calls_unanswered,
    /// Events that made the host panic
    host_panics,
    /// Effects dropped because the bus was behind
    effects_dropped,
    /// Messages to a session dropped because its link was full or broken
    session_messages_dropped,
    /// Session links that broke or were given up
    session_links_broken,
    /// Session links that could not be made
    session_links_failed,
    /// Messages from a session or the supervisor that could not be read
    messages_malformed,
    /// Reports to the supervisor that could not be sent
    reports_dropped,
    /// Client files written or removed
    store_writes,
    /// Client files that could not be written or removed
    store_failures,
    /// Datagrams read by the door
    door_datagrams,
    /// Datagrams of nobody
    door_strangers,
    /// Sockets handed to sessions
    door_handed_over,
    /// Hand-overs dropped because the link of the session was full or gone
    door_dropped,
    /// Connected sockets that could not be made
    door_sockets_failed,
    /// Last wills sent for dead sessions
    door_last_wills,
    /// Shards found standing still
    shard_stalls,
    /// Connections of a shard that stood still which no other shard could take
    rescues_failed,
}

impl Counters {
    /// All numbers as the supervisor reads them.
    pub fn counted(&self) -> Vec<Counted> {
        let all = self.snapshot().into_iter();
        let owned = |(name, meaning, value): (&str, &str, u64)| Counted {
            name: name.to_owned(),
            meaning: meaning.trim().to_owned(),
            value,
        };
        all.map(owned).collect()
    }

    /// All durations as the supervisor reads them.
    pub fn timed(&self) -> Vec<Timed> {
        let timed = |name: &str, meaning: &str, histogram: &Histogram| Timed {
            name: name.to_owned(),
            meaning: meaning.to_owned(),
            cumulative: histogram.cumulative(),
            sum_us: histogram.sum_us(),
        };
        vec![
            timed("handshake", "From accept to the end of the handshake", &self.handshake_time),
            timed("answer", "From accept to the whole answer", &self.answer_time),
        ]
    }
}

const BUCKETS: usize = 28;

/// Durations in buckets that double: bucket n counts those below 2^n microseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn record(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum()
    }

    /// Sum of all, microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Ordering::Relaxed)
    }

    /// (upper bound in microseconds, how many were below it), ascending; the last bound is open.
    pub fn cumulative(&self) -> Vec<(u64, u64)> {
        let mut below = 0;
        let counted = self.buckets.iter().enumerate().map(|(n, bucket)| {
            below += bucket.load(Ordering::Relaxed);
            (if n == BUCKETS - 1 { u64::MAX } else { 1 << n }, below)
        });
        counted.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_doubling_buckets() {
        let histogram = Histogram::default();
        for us in [0, 1, 2, 3, 4, 1000, u64::MAX] {
            histogram.record(Duration::from_micros(us));
        }
        let cumulative = histogram.cumulative();
        assert_eq!(cumulative[..4], [(1, 1), (2, 2), (4, 4), (8, 5)]);
        assert_eq!(cumulative[10], (1024, 6));
        assert_eq!(*cumulative.last().unwrap(), (u64::MAX, 7));
        assert_eq!(histogram.count(), 7);
    }

    #[test]
    fn every_counter_has_a_name_of_its_own() {
        let counters = Counters::default();
        counters.evicted.add();
        let snapshot = counters.snapshot();
        let names: std::collections::BTreeSet<_> = snapshot.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), snapshot.len());
        assert!(snapshot.iter().any(|(name, _, value)| *name == "evicted" && *value == 1));
    }
}
