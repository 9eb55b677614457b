//! What the losses of a path make of a stream: how much parity it gets, and what bitrate is left.
//!
//! Parity follows the blocks that the client reports: as much as would have repaired all but the
//! rarest of the last seconds. The bitrate follows the share of packets that were lost, by the rule
//! of loss-based congestion control (draft-ietf-rmcat-gcc-02, section 6): much loss is a queue that
//! overflows, little is the weather. Data and parity together never take more than at the start.
//! No IO, no clock.
use std::collections::VecDeque;
use std::time::Duration;

use crate::proto::control::FecStatus;
use crate::proto::stream::VideoSpec;
use crate::proto::video::parity_bytes_max;
use crate::time::Time;

/// Between two decisions.
const EVERY: Duration = Duration::from_secs(1);
/// Reports older than this say nothing of the path as it is.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Reports remembered; clients send at most 80 a second.
const REPORTS_MAX: usize = 1024;
/// So many blocks in [`REMEMBERED`] may be lost: parity for them would cost more than a key frame.
const TOLERATED: usize = 2;
/// Parity at most, in percent: beyond, half of the packets carry no picture.
const PARITY_MAX: u8 = 50;
/// Parity goes down by this much at a time, and below the configured share, to its half, only when
/// nothing was reported for [`CLEAN`].
const PARITY_STEP: u8 = 3;
const CLEAN: Duration = Duration::from_secs(30);
/// Shares of lost packets: below the first the bitrate grows, above the second it shrinks.
const LITTLE: f64 = 0.02;
const MUCH: f64 = 0.10;
const GROWTH: f64 = 1.05;
/// The bitrate when the socket itself was full.
const FULL: f64 = 0.85;
/// A share of fewer packets is none.
const PACKETS_MIN: u64 = 20;
/// The bitrate is not lowered below this share of the announced one.
const SHARE_MIN: f64 = 0.1;
/// A new bitrate that differs by less is not worth a word, in percent.
const WORTH_PERCENT: u32 = 3;
/// Frames may be this many times as large as the mean and still have room for parity.
const FRAME_VARIES: u64 = 2;

/// What the encoder is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    pub kbps: u32,
    pub fec_percent: u8,
}

/// One stream's path.
#[derive(Debug)]
pub struct Path {
    announced: VideoSpec,
    now: Tuning,
    /// What of the announced bitrate the path carries, 0..=1.
    share: f64,
    /// When blocks were reported, and the parity in percent that each would have needed.
    needs: VecDeque<(Time, u8)>,
    last_report: Time,
    missing: u64,
    frames_lost: u64,
    /// The counts at the last decision.
    decided: Time,
    sent: u64,
    frames: u64,
    full: u64,
}

/// What an encoder has sent in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub packets: u64,
    pub frames: u64,
    /// Frames that the socket did not take.
    pub full: u64,
}

impl Path {
    /// A path of which nothing is known.
    pub fn new(announced: &VideoSpec, now: Time) -> Self {
        let mut path = Self {
            announced: announced.clone(),
            now: Tuning { kbps: 0, fec_percent: announced.fec_percent },
            share: 1.0,
            needs: VecDeque::new(),
            last_report: now,
            missing: 0,
            frames_lost: 0,
            decided: now,
            sent: 0,
            frames: 0,
            full: 0,
        };
        path.now.kbps = path.kbps(path.now.fec_percent);
        path
    }

    /// What holds now; a new encoder starts with it.
    pub fn tuning(&self) -> Tuning {
        self.now
    }

    /// The client tells of a block that was repaired or given up.
    pub fn reported(&mut self, block: &FecStatus, now: Time) {
        let (data, parity) = (u32::from(block.data_packets), u32::from(block.parity_packets));
        let received = u32::from(block.received_data) + u32::from(block.received_parity);
        if data == 0 || received > data + parity {
            return;
        }
        // Parity behind the last packet that was needed may only be late.
        let missing = match received < data {
            true => data + parity - received,
            false => u32::from(block.missing_before_highest).min(data + parity),
        };
        self.missing += u64::from(missing);
        self.last_report = now;
        if self.needs.len() == REPORTS_MAX {
            self.needs.pop_front();
        }
        let need = (missing * 100).div_ceil(data).min(u32::from(u8::MAX));
        self.needs.push_back((now, u8::try_from(need).unwrap_or(u8::MAX)));
    }

    /// The client could not show a frame.
    pub fn lost_frame(&mut self) {
        self.frames_lost += 1;
    }

    /// Once in a while with what was sent so far. What is to change, if anything is.
    pub fn decide(&mut self, sent: Sent, now: Time) -> Option<Tuning> {
        if now.since(self.decided) < EVERY {
            return None;
        }
        let packets = sent.packets.saturating_sub(self.sent);
        let frames = sent.frames.saturating_sub(self.frames).max(1);
        // Of a frame that was lost as a whole no block is reported.
        let missing = self.missing.max(self.frames_lost * (packets / frames));
        let lost = missing as f64 / packets.max(PACKETS_MIN) as f64;
        self.follow_loss(lost, sent.full > self.full);
        let fec_percent = self.parity(lost, now);
        (self.decided, self.sent, self.frames) = (now, sent.packets, sent.frames);
        (self.full, self.missing, self.frames_lost) = (sent.full, 0, 0);
        let next = Tuning { kbps: self.kbps(fec_percent), fec_percent };
        let is_worth = next.kbps.abs_diff(self.now.kbps) * 100 > self.now.kbps * WORTH_PERCENT
            || next.fec_percent != self.now.fec_percent
            || (next.kbps != self.now.kbps && self.share >= 1.0);
        is_worth.then(|| {
            self.now = next;
            next
        })
    }

    fn follow_loss(&mut self, lost: f64, was_full: bool) {
        let factor = match () {
            () if lost > MUCH => 1.0 - 0.5 * lost.min(1.0),
            () if was_full => FULL,
            () if lost < LITTLE => GROWTH,
            () => 1.0,
        };
        self.share = (self.share * factor).clamp(SHARE_MIN, 1.0);
    }

    fn parity(&mut self, lost: f64, now: Time) -> u8 {
        let configured = self.announced.fec_percent;
        if configured == 0 {
            return 0;
        }
        self.needs.retain(|(at, _)| now.since(*at) < REMEMBERED);
        let mut needs: Vec<u8> = self.needs.iter().map(|(_, need)| *need).collect();
        needs.sort_unstable_by(|a, b| b.cmp(a));
        let need = needs.get(TOLERATED).map_or(0, |need| need.saturating_add(need / 4));
        let is_clean = now.since(self.last_report) >= CLEAN && self.frames_lost == 0;
        let least = if is_clean { configured.div_ceil(2) } else { configured };
        let wanted = need.clamp(least, PARITY_MAX.max(configured));
        let now = self.now.fec_percent;
        match wanted > now {
            // More packets do not help a queue that overflows.
            true if lost > MUCH => now,
            true => wanted,
            false => wanted.max(now.saturating_sub(PARITY_STEP)),
        }
    }

    /// The bitrate beside so much parity.
    fn kbps(&self, fec_percent: u8) -> u32 {
        let announced = u64::from(self.announced.bitrate_kbps);
        let total = announced * (100 + u64::from(self.announced.fec_percent));
        let beside = (total / (100 + u64::from(fec_percent))).min(announced);
        let carried = (beside as f64 * self.share) as u64;
        let hertz = u64::from(self.announced.mode.millihertz) / 1000;
        let frame = parity_bytes_max(self.announced.packet_size, fec_percent) as u64;
        let most = frame * 8 * hertz.max(1) / 1000 / FRAME_VARIES;
        u32::try_from(carried.min(most)).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::stream::{Codec, Colorspace, Mode};

    fn spec() -> VideoSpec {
        VideoSpec {
            mode: Mode { width: 1280, height: 720, millihertz: 60_000 },
            codec: Codec::H264,
            ten_bit: false,
            yuv444: false,
            colorspace: Colorspace::Rec709,
            full_range: false,
            bitrate_kbps: 10_000,
            slices: 1,
            reference_frames_max: 1,
            packet_size: 1024,
            fec_percent: 20,
            fec_packets_min: 2,
            encrypted: true,
            qos: true,
        }
    }

    /// A path that loses packets in bursts (Gilbert-Elliott), and what exceeds its capacity.
    struct Model {
        path: Path,
        state: u64,
        is_bad: bool,
        /// Share of lost packets, and the mean length of a burst.
        loss: f64,
        burst: f64,
        capacity_kbps: f64,
        sent: Sent,
        frames_lost: u64,
        at_ms: u64,
        adapts: bool,
    }

    impl Model {
        fn new(loss: f64, burst: f64) -> Self {
            Self {
                path: Path::new(&spec(), Time::ZERO),
                state: 0x9E37_79B9_7F4A_7C15,
                is_bad: false,
                loss,
                burst,
                capacity_kbps: f64::MAX,
                sent: Sent::default(),
                frames_lost: 0,
                at_ms: 0,
                adapts: true,
            }
        }

        fn chance(&mut self) -> f64 {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            (self.state >> 11) as f64 / (1u64 << 53) as f64
        }

        fn loses(&mut self) -> bool {
            let (chance, end) = (self.chance(), 1.0 / self.burst);
            let begin = self.loss * end / (1.0 - self.loss);
            self.is_bad = if self.is_bad { chance >= end } else { chance < begin };
            self.is_bad
        }

        fn frame(&mut self) {
            let tuning = self.path.tuning();
            let data = (tuning.kbps * 1000 / 60 / 8).div_ceil(1008).max(1);
            let parity = (data * u32::from(tuning.fec_percent)).div_ceil(100).max(2);
            let wire = f64::from((data + parity) * 1040 * 8 * 60) / 1000.0;
            let excess = (1.0 - self.capacity_kbps / wire).max(0.0);
            let mut lost: Vec<bool> = Vec::new();
            for _ in 0..data + parity {
                let over = self.chance() < excess;
                lost.push(self.loses() || over);
            }
            let received = lost.iter().filter(|lost| !**lost).count() as u32;
            let missing = data + parity - received;
            self.sent.packets += u64::from(data + parity);
            self.sent.frames += 1;
            let now = Time::from_millis(self.at_ms);
            if received < data {
                self.frames_lost += 1;
                self.path.lost_frame();
            }
            if lost[..data as usize].contains(&true) && received > 0 {
                let data_lost = lost[..data as usize].iter().filter(|lost| **lost).count() as u32;
                self.path.reported(
                    &FecStatus {
                        frame: 1,
                        highest_received: 0,
                        next_contiguous: 0,
                        missing_before_highest: missing as u16,
                        data_packets: data as u16,
                        parity_packets: parity as u16,
                        received_data: (data - data_lost) as u16,
                        received_parity: (received - (data - data_lost)) as u16,
                        fec_percent: tuning.fec_percent,
                        block: 0,
                        blocks: 1,
                    },
                    now,
                );
            }
        }

        /// Plays so long; how many frames were lost.
        fn play(&mut self, seconds: u64) -> u64 {
            let before = self.frames_lost;
            for i in 0..seconds * 60 {
                self.frame();
                self.at_ms += if i % 3 == 0 { 16 } else { 17 };
                if self.adapts {
                    let _ = self.path.decide(self.sent, Time::from_millis(self.at_ms));
                }
            }
            self.frames_lost - before
        }
    }

    #[test]
    fn a_clean_path_keeps_its_bitrate_and_saves_parity_in_time() {
        let mut model = Model::new(0.0, 1.0);
        assert_eq!(model.play(29), 0);
        assert_eq!(model.path.tuning(), Tuning { kbps: 10_000, fec_percent: 20 });
        model.play(30);
        assert_eq!(model.path.tuning(), Tuning { kbps: 10_000, fec_percent: 10 });
    }

    #[test]
    fn scattered_loss_costs_no_bitrate() {
        for loss in [0.01, 0.05] {
            let mut model = Model::new(loss, 1.0);
            model.play(10);
            let lost = model.play(60);
            let tuning = model.path.tuning();
            assert!(tuning.kbps >= 7_500, "{loss}: {tuning:?}");
            assert!(lost * 200 < 3_600, "{loss}: {lost} frames of 3600");
        }
    }

    #[test]
    fn bursts_get_more_parity_within_the_same_total_and_lose_fewer_frames() {
        let lost = |adapts| {
            let mut model = Model::new(0.05, 3.0);
            model.adapts = adapts;
            model.play(10);
            (model.play(60), model.path.tuning())
        };
        let ((fixed, _), (adapted, tuning)) = (lost(false), lost(true));
        assert!(adapted * 3 < fixed, "{adapted} frames lost, and {fixed} without");
        assert!(tuning.fec_percent > 25 && tuning.fec_percent <= 50, "{tuning:?}");
        let total = tuning.kbps * (100 + u32::from(tuning.fec_percent)) / 100;
        assert!((6_000..=12_000).contains(&total), "{tuning:?}");
    }

    #[test]
    fn a_narrow_path_is_found_and_left_again() {
        let mut model = Model::new(0.0, 1.0);
        model.capacity_kbps = 6_000.0;
        model.play(20);
        let tuning = model.path.tuning();
        let total = tuning.kbps * (100 + u32::from(tuning.fec_percent)) / 100;
        assert!((3_000..=7_000).contains(&total), "{tuning:?}");
        model.capacity_kbps = f64::MAX;
        model.play(60);
        assert_eq!(model.path.tuning().kbps, 10_000);
    }

    #[test]
    fn a_dead_path_leaves_a_tenth_and_a_full_socket_is_heeded() {
        let mut model = Model::new(0.99, 1e9);
        model.play(60);
        assert!(model.path.tuning().kbps >= 600, "{:?}", model.path.tuning());
        let mut path = Path::new(&spec(), Time::ZERO);
        let sent = Sent { packets: 1_000, frames: 60, full: 1 };
        let tuning = path.decide(sent, Time::from_millis(1_000)).unwrap();
        assert_eq!(tuning, Tuning { kbps: 8_500, fec_percent: 20 });
        assert_eq!(path.decide(sent, Time::from_millis(1_999)), None);
    }

    #[test]
    fn what_was_switched_off_stays_off_and_frames_leave_room_for_parity() {
        let off = VideoSpec { fec_percent: 0, ..spec() };
        let mut path = Path::new(&off, Time::ZERO);
        path.lost_frame();
        let sent = Sent { packets: 1_000, frames: 60, full: 0 };
        assert_eq!(path.decide(sent, Time::from_millis(1_000)), None);
        let huge = VideoSpec { packet_size: 208, bitrate_kbps: 1_000_000, ..spec() };
        let kbps = Path::new(&huge, Time::ZERO).tuning().kbps;
        // 848 data packets of 192 bytes, twice the mean frame.
        assert_eq!(kbps, 848 * 192 * 8 * 60 / 1000 / 2);
    }

    #[test]
    fn reports_that_lie_are_ignored_and_memory_is_bounded() {
        let mut path = Path::new(&spec(), Time::ZERO);
        let block = |data, received| FecStatus {
            frame: 1,
            highest_received: 0,
            next_contiguous: 0,
            missing_before_highest: u16::MAX,
            data_packets: data,
            parity_packets: 2,
            received_data: received,
            received_parity: 0,
            fec_percent: 20,
            block: 0,
            blocks: 1,
        };
        path.reported(&block(0, 0), Time::ZERO);
        path.reported(&block(4, 9), Time::ZERO);
        assert_eq!((path.missing, path.needs.len()), (0, 0));
        (0..5_000).for_each(|_| path.reported(&block(4, 4), Time::ZERO));
        assert_eq!(path.needs.len(), REPORTS_MAX);
        assert_eq!(path.missing, 5_000 * 6);
    }
}
