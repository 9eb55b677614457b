//! Shards: tasks that panic, processes that run out of descriptors, listeners that end, an idle shard.
//!
//! Everything is measured on the process as a whole, so these are steps of one test.
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use moonshard::shard::{self, ListenFigures, Listener, Queue, now, sleep_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// CPU time of the whole process.
fn cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec.unsigned_abs() as u32)
}

fn socket() -> socket2::Socket {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap()
}

struct House {
    shards: shard::Shards,
    address: SocketAddr,
    figures: Arc<ListenFigures>,
    ended: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    listener: TcpListener,
}

/// One shard that echoes a byte, and panics on `!`.
fn open() -> House {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let figures = Arc::new(ListenFigures::default());
    let (ended, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let fd: OwnedFd = listener.try_clone().unwrap().into();
    let (figures2, ended2, served2) = (figures.clone(), ended.clone(), served.clone());
    let shards = shard::start(vec![(None, fd)], move |shard, fd| {
        let listener = Listener::new(fd, figures2.clone());
        let (ended, served) = (ended2.clone(), served2.clone());
        async move {
            while let Ok(mut conn) = listener.accept().await {
                let flags = rustix::io::fcntl_getfd(&conn).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
                let served = served.clone();
                shard.spawn(Queue::Established, async move {
                    let mut byte = [0];
                    if conn.read_exact(&mut byte).await.is_ok() {
                        assert!(byte != *b"!", "as the test asks");
                        let _ = conn.write_all(&byte).await;
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            ended.store(true, Ordering::Release);
            while shard.tasks() > 0 {
                sleep_until(now() + Duration::from_millis(10)).await;
            }
        }
    })
    .unwrap();
    House { shards, address, figures, ended, served, listener }
}

fn echo(stream: &socket2::Socket) {
    use std::io::{Read, Write};
    let mut stream = stream;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"x").unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
}

fn connected(house: &House) -> socket2::Socket {
    let stream = socket();
    stream.connect(&house.address.into()).unwrap();
    stream
}

fn a_panicking_task_ends_alone(house: &House) {
    use std::io::{Read, Write};
    let bystander = connected(house);
    let stream = connected(house);
    (&stream).write_all(b"!").unwrap();
    assert_eq!((&stream).read(&mut [0]).unwrap_or(0), 0, "closed");
    eventually("counted", || house.shards.vitals()[0].panics() == 1);
    echo(&bystander);
    echo(&connected(house));
    assert!(house.shards.next_end(Duration::ZERO).is_none());
}

/// A shard with a non-blocking listener, as the supervisor makes it, does not turn for nothing.
fn an_idle_shard_is_idle() {
    let before = cpu();
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu() - before;
    assert!(used < Duration::from_millis(50), "{used:?} of CPU in an idle second");
}

fn without_descriptors_accept_waits_and_recovers(house: &House) {
    let served = house.served.load(Ordering::Relaxed);
    let clients: Vec<socket2::Socket> = (0..5).map(|_| socket()).collect();
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum: old.maximum }).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut ballast = Vec::new();
    while let Ok(fd) = null.try_clone() {
        ballast.push(fd);
    }
    assert!(ballast.len() > 20, "the limit was not reached");
    for client in &clients {
        client.connect(&house.address.into()).unwrap();
    }
    eventually("accept fails", || house.figures.exhausted.load(Ordering::Relaxed) > 0);
    let (before, failures) = (cpu(), house.figures.exhausted.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_secs(1));
    let failures = house.figures.exhausted.load(Ordering::Relaxed) - failures;
    let used = cpu() - before;
    assert!((2..=25).contains(&failures), "{failures} attempts in a second");
    assert!(used < Duration::from_millis(200), "{used:?} of CPU in a second");
    drop(ballast);
    clients.iter().for_each(echo);
    eventually("all served", || house.served.load(Ordering::Relaxed) == served + 5);
    setrlimit(Resource::Nofile, old).unwrap();
}

#[test]
fn a_shard_survives_what_its_connections_and_its_process_meet() {
    let house = open();
    echo(&connected(&house));
    a_panicking_task_ends_alone(&house);
    an_idle_shard_is_idle();
    without_descriptors_accept_waits_and_recovers(&house);

    // A listener that was shut down ends its accept loop and nothing else.
    let last = connected(&house);
    echo(&last);
    socket2::SockRef::from(&house.listener).shutdown(std::net::Shutdown::Both).unwrap();
    eventually("accept has ended", || house.ended.load(Ordering::Acquire));
    let end = house.shards.next_end(Duration::from_secs(5)).unwrap();
    assert!(end.orderly);
    assert!(house.shards.join());
}
