//! What the front has done, refused, dropped and tried again: atomics, readable at any time. What
//! happens to connections is kept by each shard of its own, so that no two share a cache line for it.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::reception::Service;
use crate::ipc::{Counted, Timed};
use crate::proc::histogram::Histogram;
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

/// A struct of counters beside other fields, and the list of what they count.
macro_rules! counters {
    (
        $(#[$about:meta])* $type:ident { $($(#[$field_about:meta])* $field:ident: $kind:ty,)* }
        $($(#[doc = $doc:literal])+ $name:ident,)+
    ) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $type {
            $($(#[$field_about])* pub $field: $kind,)*
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        impl $type {
            /// Name, meaning and value of each counter.
            fn own(&self) -> Vec<Counted> {
                vec![$(counted(stringify!($name), concat!($($doc),+), self.$name.get())),+]
            }
        }
    };
}

fn counted(name: &str, meaning: &str, value: u64) -> Counted {
    Counted { name: name.to_owned(), meaning: meaning.trim().to_owned(), value }
}

counters! {
    /// What one shard has met.
    ShardCounters {
        https: Arc<ListenFigures>,
        http: Arc<ListenFigures>,
        rtsp: Arc<ListenFigures>,
        /// From accept to the end of the handshake.
        handshake_time: Histogram,
        /// From accept to the whole answer being with the kernel; calls that had to wait excepted.
        answer_time: Histogram,
    }
    /// TLS handshakes that ended
    handshakes,
    /// TLS handshakes that failed because the peer does not speak TLS as it should
    handshakes_failed,
    /// TLS handshakes that failed because the client did not prove its certificate
    handshakes_unproven,
    /// TLS handshakes that the client ended with an alert: it does not know this host's certificate
    handshakes_alerted,
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
}

impl ShardCounters {
    /// What the listeners of a service have met.
    pub fn listener(&self, service: Service) -> Arc<ListenFigures> {
        Arc::clone(match service {
            Service::Https => &self.https,
            Service::Http => &self.http,
            Service::Rtsp => &self.rtsp,
        })
    }

    /// All numbers as the supervisor reads them.
    pub fn counted(&self) -> Vec<Counted> {
        let mut all = self.own();
        for (figures, service) in
            [(&self.https, "https"), (&self.http, "http"), (&self.rtsp, "rtsp")]
        {
            let mut add = |what, meaning, value: &AtomicU64| {
                let value = value.load(Ordering::Relaxed);
                all.push(counted(&format!("{service}_{what}"), meaning, value));
            };
            add("accepted", "Connections accepted", &figures.accepted);
            add(
                "exhausted",
                "Accepts that failed for lack of descriptors or memory",
                &figures.exhausted,
            );
            add("vanished", "Peers gone before they were looked at", &figures.vanished);
        }
        all
    }

    /// All durations as the supervisor reads them.
    pub fn timed(&self) -> Vec<Timed> {
        vec![
            self.handshake_time.timed("handshake", "From accept to the end of the handshake"),
            self.answer_time.timed("answer", "From accept to the whole answer"),
        ]
    }
}

counters! {
    /// All counters of the front. Shared by its shards and threads.
    Counters {
        shards: Mutex<Vec<Arc<ShardCounters>>>,
        /// From a launch to the process of its session.
        launch_process: Histogram,
        /// From there to a desktop and an app that run.
        launch_desktop: Histogram,
        /// From the answer to the launch to ANNOUNCE.
        launch_rtsp: Histogram,
        /// From ANNOUNCE to an encoder that is ready.
        launch_encoder: Histogram,
        /// From there to the control connection.
        launch_control: Histogram,
        /// From the launch or resume to the control connection.
        launch_total: Histogram,
    }
    /// Launches and resumes that were granted
    launches_granted,
    /// Launches and resumes that asked for something impossible
    launches_refused_400,
    /// Launches and resumes of devices that are not paired
    launches_refused_401,
    /// Launches of apps that there are not
    launches_refused_404,
    /// Launches and resumes that failed here
    launches_refused_500,
    /// Launches and resumes that there was no room or encoder for, or that came at a bad time
    launches_refused_503,
    /// Sessions whose process could not be started
    launch_failed_process,
    /// Sessions whose desktop or app did not start
    launch_failed_desktop,
    /// Sessions whose app ended before anybody saw it
    launch_failed_app,
    /// Sessions whose process died before anybody saw its app
    launch_failed_died,
    /// Sessions that did not start in time
    launch_failed_late,
    /// Viewers refused because no encoder could serve their stream
    launch_failed_encoder,
    /// Viewers that were granted a stream and did not come
    launch_failed_client,
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
    /// Those of one shard; made when first asked for.
    pub fn shard(&self, index: usize) -> Arc<ShardCounters> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if shards.len() <= index {
            shards.resize_with(index + 1, Arc::default);
        }
        Arc::clone(&shards[index])
    }

    /// All numbers but the shards', as the supervisor reads them.
    pub fn counted(&self) -> Vec<Counted> {
        self.own()
    }

    /// All durations but the shards', as the supervisor reads them.
    pub fn timed(&self) -> Vec<Timed> {
        vec![
            self.launch_process.timed("launch_process", "From launch to the session's process"),
            self.launch_desktop.timed("launch_desktop", "From process to desktop and app"),
            self.launch_rtsp.timed("launch_rtsp", "From the launch's answer to ANNOUNCE"),
            self.launch_encoder.timed("launch_encoder", "From ANNOUNCE to the encoder"),
            self.launch_control.timed("launch_control", "From encoder to control connection"),
            self.launch_total.timed("launch_total", "From launch to control connection"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_name_and_a_meaning_of_its_own_and_shards_count_apart() {
        let counters = Counters::default();
        counters.shard(1).evicted.add();
        counters.host_panics.add();
        let own = counters.shard(1);
        let all: Vec<Counted> = counters.counted().into_iter().chain(own.counted()).collect();
        let names: std::collections::BTreeSet<_> = all.iter().map(|c| &c.name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|c| c.meaning.len() > 5));
        let counted: Vec<_> = all.iter().filter(|c| c.value > 0).map(|c| &c.name).collect();
        assert_eq!(counted, ["host_panics", "evicted"]);
        assert_eq!(counters.shard(0).evicted.get(), 0);
    }
}
