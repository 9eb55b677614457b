//! Video packets against the recorded ones, and what a receiver repairs.
use std::ops::Range;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::proto::fec::vectors::{array, hex, load, number, unhex};
use crate::proto::secret::SessionKey;
use crate::proto::stream::Codec;
use crate::time::Time;

const NOW: Time = Time(0);

/// One stream of the vector files.
struct Stream {
    name: String,
    codec: Codec,
    parameters: Parameters,
    frames: Vec<Value>,
}

fn streams() -> Vec<Stream> {
    let files = [load("video_frames"), load("video_frames_multiblock")];
    files.iter().flat_map(|file| array(&file["streams"])).map(stream).collect()
}

fn stream(value: &Value) -> Stream {
    let key = value["encrypted"]
        .as_bool()
        .expect("a flag")
        .then(|| SessionKey(unhex(&value["key"]).try_into().expect("16 bytes")));
    Stream {
        name: value["name"].to_string(),
        codec: match value["codec"].as_str() {
            Some("h264") => Codec::H264,
            Some("hevc") => Codec::Hevc,
            Some("av1") => Codec::Av1,
            other => panic!("unknown codec {other:?}"),
        },
        parameters: Parameters {
            packet_size: number(&value["packet_size"]) as u16,
            fec_percent: number(&value["fec_percentage"]) as u8,
            fec_packets_min: number(&value["min_required_fec_packets"]) as u8,
            key,
        },
        frames: array(&value["frames"]).to_vec(),
    }
}

fn frame<'a>(value: &Value, payload: &'a [u8]) -> Frame<'a> {
    Frame {
        index: number(&value["frame_index"]) as u32,
        kind: FrameKind::from_wire(number(&value["frame_type"]) as u8).expect("a known kind"),
        timestamp: number(&value["rtp_timestamp"]) as u32,
        latency: number(&value["processing_latency_tenths_ms"]) as u16,
        long_term_reference: value["ltr"].as_bool().expect("a flag"),
        head: &[],
        body: payload,
    }
}

fn receiver(parameters: &Parameters, codec: Codec, invalidation: bool) -> Receiver {
    Receiver::new(&ReceiverParameters {
        packet_size: parameters.packet_size,
        codec,
        key: parameters.key.clone(),
        invalidation,
    })
}

/// The byte ranges of parity packets that a client looks at.
fn parity_must_match(packet: usize) -> Vec<Range<usize>> {
    let file = load("video_frames");
    let end = |value: &Value| value.as_u64().map_or(packet, |end| end as usize);
    array(&file["parity_must_match"]).iter().map(|r| number(&r[0])..end(&r[1])).collect()
}

#[test]
fn datagrams_equal_the_vectors() {
    for stream in streams() {
        let mut packetizer = Packetizer::new(&stream.parameters);
        let (mut out, mut counter) = (Vec::new(), 0);
        for value in &stream.frames {
            let payload = unhex(&value["payload"]);
            let packets = array(&value["packets"]);
            let expected = packetizer.layout(payload.len()).expect("small").packets();
            let count = packetizer
                .packetize(&frame(value, &payload), counter, &mut out)
                .expect("a small frame");
            assert_eq!((count, count), (packets.len(), expected), "{}", stream.name);
            assert_eq!(out.len(), count * packetizer.datagram_bytes());
            for (datagram, packet) in out.chunks_exact(packetizer.datagram_bytes()).zip(packets) {
                let wanted = unhex(&packet["packet"]);
                if packet["kind"] == "data" || stream.parameters.key.is_some() {
                    assert_eq!(hex(datagram), hex(&wanted), "{}", stream.name);
                } else {
                    for range in parity_must_match(wanted.len()) {
                        assert_eq!(hex(&datagram[range.clone()]), hex(&wanted[range]));
                    }
                }
            }
            counter += count as u64;
        }
    }
}

#[test]
fn encrypted_vectors_open_to_their_plaintext() {
    let encrypted = streams().into_iter().filter_map(|s| s.parameters.key.clone().map(|k| (s, k)));
    for (stream, key) in encrypted {
        let key = seal::PacketKey::new(&key);
        let mut packet = Vec::new();
        for vector in stream.frames.iter().flat_map(|frame| array(&frame["packets"])) {
            let mut datagram = unhex(&vector["packet"]);
            assert!(key.open(&datagram, &mut packet));
            assert_eq!(hex(&packet), hex(&unhex(&vector["plaintext"])));
            assert!((0..datagram.len()).all(|end| !key.open(&datagram[..end], &mut packet)));
            datagram[40] ^= 1;
            assert!(!key.open(&datagram, &mut packet));
        }
    }
}

#[test]
fn the_receiver_takes_the_vectors_whole() {
    for stream in streams() {
        let mut receiver = receiver(&stream.parameters, stream.codec, true);
        for value in &stream.frames {
            let mut shown = Vec::new();
            for packet in array(&value["packets"]) {
                shown.extend(receiver.push(&unhex(&packet["packet"]), NOW));
            }
            shown.retain(|event| *event != Event::FirstPacket);
            let [Event::Frame(received)] = &shown[..] else { panic!("{}: {shown:?}", stream.name) };
            let payload = unhex(&value["payload"]);
            let sent = frame(value, &payload);
            assert_eq!(hex(&received.bytes), hex(&payload));
            assert_eq!(
                (received.index, received.kind, received.timestamp, received.latency),
                (sent.index, sent.kind, sent.timestamp, sent.latency)
            );
            assert_eq!(received.long_term_reference, sent.long_term_reference);
            assert_eq!(received.repaired, 0);
        }
        let statistics = receiver.statistics();
        assert_eq!((statistics.malformed, statistics.unopened), (0, 0));
    }
}

/// Every choice of `count` numbers below `from`.
fn choices(from: usize, count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    (count - 1..from)
        .flat_map(|last| {
            choices(last, count - 1).into_iter().map(move |mut rest| {
                rest.push(last);
                rest
            })
        })
        .collect()
}

#[test]
fn every_loss_up_to_the_parity_of_a_small_block_is_repaired() {
    for stream in streams().iter().filter(|stream| !stream.name.contains("two_fec_blocks")) {
        for (at, value) in stream.frames.iter().enumerate() {
            let packets = array(&value["packets"]);
            let parity = packets.iter().filter(|packet| packet["kind"] == "parity").count();
            for dropped in choices(packets.len(), parity) {
                let mut receiver = receiver(&stream.parameters, stream.codec, false);
                for packet in stream.frames[..at].iter().flat_map(|f| array(&f["packets"])) {
                    receiver.push(&unhex(&packet["packet"]), NOW);
                }
                let kept = (0..packets.len()).filter(|i| !dropped.contains(i));
                let events: Vec<Event> =
                    kept.flat_map(|i| receiver.push(&unhex(&packets[i]["packet"]), NOW)).collect();
                let frame = events.iter().find_map(|event| match event {
                    Event::Frame(frame) => Some(frame),
                    _ => None,
                });
                let frame = frame.unwrap_or_else(|| panic!("{} {dropped:?}", stream.name));
                assert_eq!(hex(&frame.bytes), hex(&unhex(&value["payload"])));
            }
        }
    }
}

#[test]
fn layouts_equal_the_vectors() {
    for case in array(&load("video_fec_layout")["cases"]) {
        let layout = Layout::new(
            number(&case["total_data_packets"]),
            number(&case["fec_percentage"]) as u8,
            number(&case["min_required_fec_packets"]) as u8,
        )
        .expect("small enough");
        let blocks: Vec<[usize; 3]> = layout
            .blocks()
            .iter()
            .map(|block| [block.data, block.parity, usize::from(block.percent)])
            .collect();
        assert_eq!(serde_json::json!(blocks), case["blocks"], "{case}");
    }
}

#[test]
fn every_layout_obeys_the_receivers_rules() {
    for percent in [0, 1, 5, 10, 20, 33, 50, 99, 100, 101, 180, 254, 255] {
        for parity_min in [0, 1, 2, 3, 10, 100, 255] {
            for packets in (1..1100).chain([4000, DATA_PACKETS_MAX]) {
                let layout = Layout::new(packets, percent, parity_min).expect("small enough");
                assert_eq!(layout.data_packets(), packets);
                assert!(layout.packets() <= PACKETS_MAX);
                for block in layout.blocks() {
                    let announced = usize::from(block.percent);
                    assert!((1..=1023).contains(&block.data));
                    assert_eq!(block.parity, (block.data * announced).div_ceil(100));
                    assert!(block.parity == 0 || block.packets() <= 255);
                    assert!(percent == 0 || block.percent == 0 || block.percent >= percent);
                }
            }
        }
    }
    let refused = Layout::new(DATA_PACKETS_MAX + 1, 20, 2);
    assert_eq!(refused, Err(FrameTooLarge { data_packets: DATA_PACKETS_MAX + 1 }));
}

/// A synthetic access unit: SPS, PPS and an IDR slice, or a P slice.
fn access_unit(bytes: usize, is_idr: bool) -> Vec<u8> {
    let mut unit: Vec<u8> = if is_idr {
        vec![0, 0, 0, 1, 0x67, 9, 9, 0, 0, 0, 1, 0x68, 9, 0, 0, 1, 0x65]
    } else {
        vec![0, 0, 0, 1, 0x41]
    };
    let start = unit.len();
    unit.extend((start..bytes.max(start)).map(|i| (i * 7 % 251) as u8 | 4));
    unit
}

fn frame_of(index: u32, kind: FrameKind, body: &[u8]) -> Frame<'_> {
    Frame {
        index,
        kind,
        timestamp: index * 1500,
        latency: 17,
        long_term_reference: false,
        head: &[],
        body,
    }
}

fn parameters(packet_size: u16, key: Option<SessionKey>) -> Parameters {
    Parameters { packet_size, fec_percent: 20, fec_packets_min: 2, key }
}

/// A stream under test: sends frames, drops what it is told to.
struct Link {
    packetizer: Packetizer,
    receiver: Receiver,
    counter: u64,
    index: u32,
}

impl Link {
    fn new(parameters: &Parameters, invalidation: bool) -> Self {
        Self {
            packetizer: Packetizer::new(parameters),
            receiver: receiver(parameters, Codec::H264, invalidation),
            counter: 0,
            index: 0,
        }
    }

    fn datagrams(&mut self, kind: FrameKind, unit: &[u8]) -> Vec<Vec<u8>> {
        self.index += 1;
        let mut out = Vec::new();
        let frame = frame_of(self.index, kind, unit);
        let count = self.packetizer.packetize(&frame, self.counter, &mut out).expect("it fits");
        self.counter += count as u64;
        out.chunks_exact(self.packetizer.datagram_bytes()).map(<[u8]>::to_vec).collect()
    }

    fn send(
        &mut self,
        kind: FrameKind,
        bytes: usize,
        is_dropped: impl Fn(usize) -> bool,
    ) -> Vec<Event> {
        let unit = access_unit(bytes, kind == FrameKind::Idr);
        let datagrams = self.datagrams(kind, &unit);
        let kept = datagrams.iter().enumerate().filter(|(i, _)| !is_dropped(*i));
        let events = kept.flat_map(|(_, datagram)| self.receiver.push(datagram, NOW));
        events.filter(|event| *event != Event::FirstPacket).collect()
    }
}

fn shows(events: &[Event]) -> Option<u32> {
    events.iter().find_map(|event| match event {
        Event::Frame(frame) => Some(frame.index),
        _ => None,
    })
}

#[test]
fn frames_of_every_size_around_packet_borders_come_back_identical() {
    let key = Some(SessionKey([7; 16]));
    for packet_size in [208, 1024, 1184, 1360, 1392] {
        let payload = usize::from(packet_size) - 16;
        for key in [None, key.clone()] {
            let mut link = Link::new(&parameters(packet_size, key), false);
            link.send(FrameKind::Idr, 100, |_| false);
            for packets in [1, 2, 3, 212, 213, 900] {
                for bytes in [packets * payload - 9, packets * payload - 8, packets * payload - 7] {
                    let unit = access_unit(bytes, false);
                    let datagrams = link.datagrams(FrameKind::Predicted, &unit);
                    let events: Vec<Event> =
                        datagrams.iter().flat_map(|d| link.receiver.push(d, NOW)).collect();
                    let [Event::Frame(frame)] = &events[..] else { panic!("{events:?}") };
                    assert!(frame.bytes == unit, "{packet_size} {bytes}");
                }
            }
            assert_eq!(link.receiver.statistics().malformed, 0);
        }
    }
}

#[test]
fn counters_wrap_without_a_gap() {
    for start in [65_530, 65_530 + (255 << 16), u64::from(u32::MAX) - 5] {
        let mut link = Link::new(&parameters(208, None), false);
        link.counter = start;
        let unit = access_unit(4000, true);
        let datagrams = link.datagrams(FrameKind::Idr, &unit);
        for (counter, datagram) in (start..).zip(&datagrams) {
            assert_eq!(datagram[2..4], (counter as u16).to_be_bytes());
        }
        let data = link.packetizer.layout(4000).expect("small").data_packets();
        for (counter, datagram) in (start..).zip(&datagrams[..data]) {
            assert_eq!(datagram[16..20], ((counter as u32 & 0xFF_FFFF) << 8).to_le_bytes());
        }
    }
}

#[test]
fn a_frame_without_room_for_all_its_parity_has_four_blocks_with_what_there_is_room_for() {
    let packetizer = Packetizer::new(&parameters(208, None));
    let mut last = 20;
    for packets in 849..=1_008 {
        let layout = packetizer.layout(192 * packets - 8).expect("small enough");
        assert_eq!((layout.blocks().len(), layout.data_packets()), (4, packets));
        for block in layout.blocks() {
            assert!(block.parity > 0 && block.packets() <= 255, "{packets}: {block:?}");
            assert_eq!(block.parity, (block.data * usize::from(block.percent)).div_ceil(100));
        }
        let percent = layout.blocks()[0].percent;
        assert!(percent <= last);
        last = percent;
    }
    let layout = packetizer.layout(192 * 1_009 - 8).expect("small enough");
    assert!(layout.blocks().iter().all(|block| block.parity == 0 && block.percent == 0));
    assert!(packetizer.layout(192 * DATA_PACKETS_MAX - 8).is_ok());
    assert!(packetizer.layout(192 * DATA_PACKETS_MAX - 7).is_err());
    assert!(packetizer.layout(usize::MAX).is_err());
}

#[test]
fn without_invalidation_a_loss_asks_for_a_key_frame_and_waits_for_it() {
    let mut link = Link::new(&parameters(208, None), false);
    let lost = |_| true;
    assert_eq!(shows(&link.send(FrameKind::Predicted, 500, |_| false)), None);
    assert_eq!(shows(&link.send(FrameKind::Idr, 500, |_| false)), Some(2));
    assert_eq!(link.send(FrameKind::Predicted, 500, lost), []);
    let events = link.send(FrameKind::Predicted, 500, |_| false);
    assert_eq!(
        events,
        [
            Event::Lost { first: 3, last: 3 },
            Event::Discarded { index: 4 },
            Event::Request(Request::Idr)
        ]
    );
    assert_eq!(
        link.send(FrameKind::AfterInvalidation, 500, |_| false),
        [Event::Discarded { index: 5 }]
    );
    assert!(link.receiver.is_waiting());
    assert_eq!(shows(&link.send(FrameKind::Idr, 500, |_| false)), Some(6));
    assert!(!link.receiver.is_waiting());
}

#[test]
fn with_invalidation_a_hopeless_frame_is_told_before_it_is_over() {
    let mut link = Link::new(&parameters(208, None), true);
    link.send(FrameKind::Idr, 500, |_| false);
    // Five data and two parity packets; three are missing when the fourth arrives.
    let events = link.send(FrameKind::Predicted, 900, |i| i < 3);
    assert_eq!(
        events,
        [
            Event::Lost { first: 2, last: 2 },
            Event::Request(Request::Invalidate { first: 2, last: 2 })
        ]
    );
    assert_eq!(link.send(FrameKind::Predicted, 500, |_| false), [Event::Discarded { index: 3 }]);
    assert_eq!(shows(&link.send(FrameKind::AfterInvalidation, 500, |_| false)), Some(4));
    assert_eq!(link.receiver.statistics().frames_lost, 1);
}

#[test]
fn a_client_that_waits_in_vain_asks_again() {
    let mut link = Link::new(&parameters(208, None), false);
    let asked: Vec<usize> = (1..=241)
        .filter(|_| {
            let events = link.send(FrameKind::Predicted, 300, |_| false);
            events.contains(&Event::Request(Request::Idr))
        })
        .collect();
    assert_eq!(asked, [120, 240]);
}

#[test]
fn every_prefix_of_a_datagram_is_malformed() {
    for stream in streams() {
        let packet = unhex(&stream.frames[0]["packets"][0]["packet"]);
        let mut receiver = receiver(&stream.parameters, stream.codec, false);
        for end in 0..packet.len() {
            assert_eq!(receiver.push(&packet[..end], NOW), []);
        }
        assert_eq!(receiver.statistics().malformed, packet.len() as u64);
        receiver.push(&[&packet[..], &[0]].concat(), NOW);
        assert_eq!(receiver.statistics().malformed, packet.len() as u64 + 1);
    }
}

#[test]
fn a_lost_block_loses_the_frame() {
    // Blocks of 107 and 106 data packets with 22 parity packets each. A loss in the first one shows
    // when the second begins, one in the second when the next frame does.
    for (dropped, shown, told_later) in [(0..66, None, 0), (0..22, Some(2), 0), (130..200, None, 1)]
    {
        let mut link = Link::new(&parameters(208, None), false);
        link.send(FrameKind::Idr, 500, |_| false);
        let events = link.send(FrameKind::Predicted, 192 * 213 - 8, |i| dropped.contains(&i));
        assert_eq!(shows(&events), shown, "{dropped:?}");
        let next = link.send(FrameKind::Idr, 500, |_| false);
        assert_eq!((shows(&next), next.len()), (Some(3), 1 + told_later));
    }
}

#[test]
fn key_frames_that_a_client_would_not_recognise_are_not_shown() {
    let parameters = parameters(208, None);
    let mut no_parameter_sets = access_unit(400, true);
    no_parameter_sets.drain(..13);
    let mut late_slice = vec![0, 0, 0, 1, 0x67, 9, 0, 0, 0, 1, 6];
    late_slice.resize(200, 9);
    late_slice.extend([0, 0, 0, 1, 0x65, 1, 2, 3]);
    for (unit, shown) in
        [(no_parameter_sets, false), (late_slice.clone(), false), (access_unit(400, true), true)]
    {
        let mut link = Link::new(&parameters, false);
        let datagrams = link.datagrams(FrameKind::Idr, &unit);
        let events: Vec<Event> =
            datagrams.iter().flat_map(|datagram| link.receiver.push(datagram, NOW)).collect();
        assert_eq!(shows(&events).is_some(), shown);
    }
    assert!(is_idr(Codec::H264, &late_slice) && !idr_fits(Codec::H264, &late_slice, 208));
    let mut head = Vec::new();
    let body = strip_leading_sei(Codec::H264, &late_slice, &mut head);
    let stripped = [&head, body].concat();
    assert_eq!(hex(&stripped), "00000001670900000001".to_owned() + "65010203");
    assert!(idr_fits(Codec::H264, &stripped, 208));
}

#[test]
fn sei_between_parameter_sets_goes_and_parameter_sets_stay() {
    let mut head = Vec::new();
    // AUD, SPS, SEI, PPS, IDR, SEI, IDR.
    let h264 = "0000000109f0 0000000167aabb 00000106cc 00000168dd 00000165ee 00000106ff 0000016501";
    let h264 = unhex(&Value::from(h264.replace(' ', "")));
    let body = strip_leading_sei(Codec::H264, &h264, &mut head);
    assert_eq!(hex(&head), "0000000167AABB00000168DD");
    assert_eq!(hex(body), "00000165EE00000106FF0000016501");
    // AUD (35), VPS, SPS, PPS, prefix SEI (39), CRA (21).
    let hevc =
        "000000014601 0000000140011a 0000000142011b 0000000144011c 000001 4e01cc 0000012a01dd";
    let hevc = unhex(&Value::from(hevc.replace(' ', "")));
    let body = strip_leading_sei(Codec::Hevc, &hevc, &mut head);
    assert_eq!(hex(&head), "0000000140011A0000000142011B0000000144011C");
    assert_eq!(hex(body), "0000012A01DD");
    // A predicted frame keeps everything.
    let predicted = [0, 0, 1, 6, 9, 0, 0, 1, 0x41, 1];
    assert_eq!(strip_leading_sei(Codec::H264, &predicted, &mut head), predicted);
    assert!(head.is_empty());
}

#[test]
fn av1_key_frames_have_a_sequence_header_and_a_shown_key_frame() {
    let delimiter = [0x12, 0x00];
    let sequence = [0x0A, 0x02, 1, 2];
    let (key, inter) = ([0x32, 0x02, 0x10, 0], [0x32, 0x02, 0x30, 0]);
    assert!(is_idr(Codec::Av1, &[&delimiter[..], &sequence, &key].concat()));
    assert!(!is_idr(Codec::Av1, &[&delimiter[..], &key].concat()));
    assert!(!is_idr(Codec::Av1, &[&delimiter[..], &sequence, &inter].concat()));
    let whole = [&delimiter[..], &sequence, &key].concat();
    assert!((0..whole.len()).all(|end| !is_idr(Codec::Av1, &whole[..end])));
}

#[test]
fn vector_key_frames_are_recognised() {
    // The OBUs of the AV1 vectors have arbitrary contents.
    for stream in streams().into_iter().filter(|stream| stream.codec != Codec::Av1) {
        for value in &stream.frames {
            let payload = unhex(&value["payload"]);
            let wanted = value["frame_type"] == 2;
            assert_eq!(is_idr(stream.codec, &payload), wanted, "{}", stream.name);
            if wanted {
                assert!(idr_fits(stream.codec, &payload, stream.parameters.packet_size));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_loss_up_to_the_parity_of_each_block_gives_the_identical_frame(
        bytes in 20usize..90_000, percent in 1u8..=255, parity_min in 0u8..6, seed: u64, sealed: bool,
    ) {
        let parameters = Parameters {
            packet_size: 208,
            fec_percent: percent,
            fec_packets_min: parity_min,
            key: sealed.then_some(SessionKey([3; 16])),
        };
        let mut link = Link::new(&parameters, false);
        let unit = access_unit(bytes, true);
        let layout = link.packetizer.layout(unit.len()).expect("small enough");
        let datagrams = link.datagrams(FrameKind::Idr, &unit);
        let mut order: Vec<usize> = Vec::new();
        let mut start = 0;
        for block in layout.blocks() {
            let mut packets: Vec<usize> = (start..start + block.packets()).collect();
            packets.sort_by_key(|&i| (i as u64 + 1).wrapping_mul(seed | 1).rotate_left(31));
            order.extend(&packets[block.parity..]);
            start += block.packets();
        }
        let events: Vec<Event> =
            order.iter().flat_map(|&i| link.receiver.push(&datagrams[i], NOW)).collect();
        let frame = events.iter().find_map(|event| match event {
            Event::Frame(frame) => Some(frame),
            _ => None,
        });
        prop_assert!(frame.is_some_and(|frame| frame.bytes == unit));
    }

    #[test]
    fn no_bytes_harm_the_receiver(
        flips in prop::collection::vec((0usize..224, any::<u8>(), 0usize..60), 0..60),
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        invalidation: bool,
    ) {
        let mut link = Link::new(&parameters(208, None), invalidation);
        let mut datagrams = Vec::new();
        for index in 0..8 {
            let kind = if index % 4 == 0 { FrameKind::Idr } else { FrameKind::Predicted };
            datagrams.extend(link.datagrams(kind, &access_unit(900, kind == FrameKind::Idr)));
        }
        for (at, value, packet) in flips {
            if let Some(datagram) = datagrams.get_mut(packet) {
                datagram[at] = value;
            }
        }
        for datagram in datagrams.iter().chain(&noise) {
            link.receiver.push(datagram, NOW);
        }
        let statistics = link.receiver.statistics();
        let counted = statistics.malformed + statistics.late + statistics.duplicate
            + statistics.data + statistics.parity;
        prop_assert!(counted >= statistics.datagrams.saturating_sub(60));
    }

    #[test]
    fn no_bytes_harm_the_bitstream_parsers(bytes in prop::collection::vec(0u8..=70, 0..200)) {
        let mut head = Vec::new();
        for codec in [Codec::H264, Codec::Hevc, Codec::Av1] {
            let is_idr = is_idr(codec, &bytes);
            idr_fits(codec, &bytes, 208);
            let body = strip_leading_sei(codec, &bytes, &mut head);
            prop_assert!(head.len() + body.len() <= bytes.len());
            prop_assert!(is_idr || body == bytes);
        }
    }
}
