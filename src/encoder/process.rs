//! The encoder's first thread: starts the chain and the others, obeys the session, beats the heart.
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::end::{self, end};
use super::shared::{Returns, Shared, fail, lock};
use super::{frames, place, sender};
use crate::ipc::{EncoderBoot, FromEncoder, ToEncoder};
use crate::media::pipeline::{Freed, Pipeline};
use crate::media::slots::Slots;
use crate::media::table::Row;
use crate::media::{self, MediaError, table};
use crate::net;
use crate::ops::log;
use crate::proc::boot;
use crate::proc::link::{Link, LinkError};
use crate::proc::page::ViewerPage;

/// Between two beats, and the longest wait for an order.
const TICK: Duration = Duration::from_millis(50);
/// From the order to stop to the end of the process.
const STOP_WAIT: Duration = Duration::from_millis(400);
/// The frame link, the control link and the page come before the slots.
const FDS_BEFORE_SLOTS: usize = 3;

/// Between the last slot's going out and the conclusion that the encoder keeps them all.
const SLOTS_KEPT_MAX: Duration = Duration::from_secs(1);

/// `moonshard encoder <session>`, started by a session.
pub fn main() -> ExitCode {
    main_with(table::ROWS, || ())
}

/// The same with other encoders than the table's, whose elements `register` brings: for tests of
/// encoders that fail.
pub fn main_with(rows: &'static [Row], register: fn()) -> ExitCode {
    log::init("encoder");
    // A thread that panics must not leave the others behind as half an encoder.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        end(end::PANICKED);
    }));
    match boot::receive::<EncoderBoot>(boot::inherited()) {
        Ok((boot, fds)) if fds.len() > FDS_BEFORE_SLOTS => {
            if let Err(error) = media::start() {
                eprintln!("moonshard encoder: {error}");
            }
            register();
            run(&boot, rows, fds);
        }
        Ok(_) => eprintln!("moonshard encoder: started without slots"),
        Err(error) => eprintln!("moonshard encoder: {error}"),
    }
    ExitCode::from(end::MISUSED as u8)
}

fn run(boot: &EncoderBoot, rows: &'static [Row], mut fds: Vec<OwnedFd>) {
    let slots = fds.split_off(FDS_BEFORE_SLOTS);
    let mut links = fds.into_iter();
    let (Some(frames), Some(control), Some(page)) = (links.next(), links.next(), links.next())
    else {
        return;
    };
    let (frames, control) = (Link::from_fd(frames), Link::from_fd(control));
    let page = match ViewerPage::open(page) {
        Ok(page) => Arc::new(page),
        Err(error) => fail(&control, format!("the viewer's page: {error}")),
    };
    page.beat(net::now().0);
    let plan = place::plan(&boot.cores, boot.session.0);
    let cores = plan.take();
    let back = match frames.try_clone() {
        Ok(link) => Arc::new(Returns::new(link, page.clone(), boot.ring.slots)),
        Err(error) => fail(&control, format!("the frame link: {error}")),
    };
    let freed: Freed = {
        let back = back.clone();
        Arc::new(move |note, fate| back.give_back(note, fate))
    };
    let rows = table::choose_from(rows, &boot.encoder, boot.spec.video.codec);
    let trying = |encoder: &str| {
        // A full or closed link: nobody is left to care.
        let _ = control.send(&FromEncoder::Trying { encoder: encoder.into() }, &[]);
    };
    let chain = match start_chain(boot, &rows, slots, cores, &freed, trying) {
        Ok(chain) => chain,
        Err(reason) => fail(&control, reason),
    };
    let name = chain.name();
    // Lives as long as the process, which ends by `end`.
    let shared: &'static Shared = Box::leak(Box::new(Shared {
        chain,
        page,
        epoch: boot.epoch,
        returns: back,
        control,
        keys: Mutex::default(),
        socket: Mutex::default(),
        fec_percent: boot.spec.video.fec_percent.into(),
        done: 0.into(),
    }));
    let sender = sender::Sender::new(shared, &boot.spec.video, &boot.key);
    spawn(shared, "sender", move || {
        plan.take_for_sending();
        sender.run();
    });
    spawn(shared, "frames", move || frames::run(shared, &frames));
    tracing::info!(encoder = name, epoch = boot.epoch, cores, "encoding");
    // The start may have taken longer than a silence may: it counts from now.
    shared.page.beat(net::now().0);
    if shared.control.send(&FromEncoder::Ready { encoder: name.into() }, &[]).is_err() {
        end(end::DONE);
    }
    obey(shared);
}

fn spawn(shared: &Shared, name: &str, body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name(name.into()).spawn(body);
    if let Err(error) = thread {
        shared.fail(format!("no thread: {error}"));
    }
}

/// The chain of the first encoder among those wanted that encodes a picture, or why none does.
fn start_chain(
    boot: &EncoderBoot,
    rows: &[&'static Row],
    slots: Vec<OwnedFd>,
    cores: usize,
    freed: &Freed,
    trying: impl Fn(&str),
) -> Result<Pipeline, String> {
    let spec = &boot.spec.video;
    media::start().map_err(|e| e.to_string())?;
    let slots = Slots::new(boot.ring, slots).map_err(|e| e.to_string())?;
    if rows.is_empty() {
        let reason = format!("no encoder `{}` for {:?} is known", boot.encoder, spec.codec);
        return Err(MediaError::Unsuited(reason).to_string());
    }
    let mut reasons = Vec::new();
    for row in rows {
        if boot.passed_over.iter().any(|name| name == row.element) {
            reasons.push(format!("{} failed too often", row.element));
            continue;
        }
        trying(row.element);
        match Pipeline::start(row, spec, &slots, cores, freed.clone()) {
            Ok(chain) => return Ok(chain),
            Err(error) => {
                tracing::warn!(encoder = row.element, %error, "passed over");
                reasons.push(error.to_string());
            }
        }
    }
    Err(reasons.join("; "))
}

/// Obeys the session until it says stop or is gone.
fn obey(shared: &Shared) -> ! {
    let mut done = 0;
    let mut kept_since = None;
    loop {
        match shared.control.receive_within::<ToEncoder>(TICK) {
            Ok((ToEncoder::Socket, fds)) => {
                if let Some(fd) = fds.into_iter().next() {
                    *lock(&shared.socket) = Some(fd);
                    shared.chain.want_key();
                }
            }
            Ok((ToEncoder::KeyFrame, _)) => shared.want_key(),
            Ok((ToEncoder::Bitrate { kbps }, _)) => {
                if let Err(error) = shared.chain.set_bitrate(kbps) {
                    tracing::debug!(kbps, %error, "the bitrate stays");
                }
            }
            Ok((ToEncoder::Parity { percent }, _)) => {
                shared.fec_percent.store(percent, Ordering::Relaxed);
            }
            Ok((ToEncoder::Stop, _)) => {
                shared.chain.stop(STOP_WAIT);
                end(end::DONE);
            }
            Err(LinkError::Empty) => {}
            Err(LinkError::Malformed(error)) => tracing::warn!(error, "not an order"),
            Err(LinkError::Closed | LinkError::Full | LinkError::System(_)) => end(end::DONE),
        }
        if shared.page.epoch() != shared.epoch {
            end(end::DONE);
        }
        let now = net::now();
        // No progress while frames wait is no sign of life.
        let done_now = shared.done.load(Ordering::Acquire);
        if done_now != done || !shared.chain.is_waiting() {
            shared.page.beat(now.0);
            done = done_now;
        }
        if !shared.returns.are_all_out() || shared.chain.is_waiting() {
            kept_since = None;
        } else if now.since(*kept_since.get_or_insert(now)) > SLOTS_KEPT_MAX {
            shared.fail(format!("{} keeps every slot that it was given", shared.chain.name()));
        }
        if lock(&shared.keys).is_due(now) {
            shared.chain.want_key();
        }
        shared.returns.retry();
        log::settle();
    }
}
