//! Golden packets byte for byte, and receivers under loss and reordering.
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::proto::fec::vectors::{array, hex, load, number, unhex};
use crate::proto::secret::SessionKey;
use crate::time::Time;

const NOW: Time = Time(0);

fn cases() -> Vec<(Value, AudioParameters)> {
    let file = load("audio_packets");
    let key = SessionKey(unhex(&file["key"]).try_into().expect("16 bytes"));
    let rikeyid = (number(&file["rikeyid"]) as u32).cast_signed();
    let parameters = |case: &Value| AudioParameters {
        packet_ms: number(&case["packet_duration_ms"]) as u8,
        encryption: (case["encrypted"] == true).then(|| Encryption { key: key.clone(), rikeyid }),
    };
    array(&file["cases"]).iter().map(|case| (case.clone(), parameters(case))).collect()
}

fn packetizer(case: &Value, parameters: &AudioParameters) -> AudioPacketizer {
    let first = &case["packets"][0];
    AudioPacketizer::new(
        parameters,
        number(&first["seq"]) as u16,
        number(&first["timestamp"]) as u32,
    )
}

fn opus_packets(case: &Value) -> Vec<Vec<u8>> {
    let packets = array(&case["packets"]).iter();
    packets.filter(|packet| packet["kind"] == "data").map(|packet| unhex(&packet["opus"])).collect()
}

fn played(events: &[AudioEvent]) -> Vec<Vec<u8>> {
    let opus = events.iter().filter_map(|event| match event {
        AudioEvent::Packet { opus, .. } => Some(opus.clone()),
        AudioEvent::Lost { .. } => None,
    });
    opus.collect()
}

#[test]
fn datagrams_equal_the_vectors() {
    for (case, parameters) in cases() {
        let mut packetizer = packetizer(&case, &parameters);
        let mut sent = Vec::new();
        for opus in opus_packets(&case) {
            sent.extend(packetizer.push(&opus).expect("a short packet").map(hex));
        }
        let wanted: Vec<String> =
            array(&case["packets"]).iter().map(|packet| hex(&unhex(&packet["packet"]))).collect();
        assert_eq!(sent, wanted, "{}", case["name"]);
    }
}

#[test]
fn vectors_come_back_with_every_loss_of_two_packets_per_block() {
    for (case, parameters) in cases() {
        let packets = array(&case["packets"]);
        for (a, b) in (0..6).flat_map(|a| (0..=a).map(move |b| (a, b))) {
            let mut receiver = AudioReceiver::new(&parameters);
            let mut events = Vec::new();
            // The first block only synchronises: it must begin with its first packet.
            let kept =
                packets.iter().enumerate().filter(|(i, _)| *i < 6 || i % 6 != a && i % 6 != b);
            for (_, packet) in kept {
                events.extend(receiver.push(&unhex(&packet["packet"]), NOW));
            }
            assert_eq!(
                played(&events),
                opus_packets(&case),
                "{} without {a} and {b}",
                case["name"]
            );
            let timestamps: Vec<u32> = events
                .iter()
                .filter_map(|event| match event {
                    AudioEvent::Packet { timestamp, .. } => Some(*timestamp),
                    AudioEvent::Lost { .. } => None,
                })
                .collect();
            let wanted: Vec<u32> = packets
                .iter()
                .filter(|packet| packet["kind"] == "data")
                .map(|packet| number(&packet["timestamp"]) as u32)
                .collect();
            assert_eq!(timestamps, wanted);
        }
    }
}

#[test]
fn parsing_gives_what_was_written_and_refuses_what_is_cut() {
    use packet::AudioPacket;
    let data = [&packet::data_header(65535, 77)[..], b"opus"].concat();
    let parsed = AudioPacket::Data { sequence: 65535, timestamp: 77, payload: b"opus" };
    assert_eq!(AudioPacket::parse(&data), Some(parsed));
    assert!((0..=12).all(|end| AudioPacket::parse(&data[..end]).is_none()));
    let parity = [&packet::parity_header(65532, 9, 1)[..], b"fec!"].concat();
    let parsed = AudioPacket::Parity { base: 65532, base_timestamp: 9, shard: 1, payload: b"fec!" };
    assert_eq!(AudioPacket::parse(&parity), Some(parsed));
    assert!((0..=24).all(|end| AudioPacket::parse(&parity[..end]).is_none()));
    // Another shard, another kind, a base inside a block.
    for (at, value) in [(12, 2), (1, 96), (13, 96), (15, 0xFD), (0, 0x90), (11, 1)] {
        let mut bytes = parity.clone();
        bytes[at] = value;
        assert_eq!(AudioPacket::parse(&bytes), None, "byte {at}");
    }
    assert_eq!(AudioPacket::parse(&[&data[..], &[0; 1400]].concat()), None);
}

#[test]
fn a_loss_of_three_is_told_when_the_next_block_begins() {
    let (case, parameters) = cases().remove(0);
    let packets: Vec<Vec<u8>> =
        array(&case["packets"]).iter().map(|packet| unhex(&packet["packet"])).collect();
    let mut receiver = AudioReceiver::new(&parameters);
    let mut events = Vec::new();
    for (i, packet) in packets.iter().enumerate() {
        if ![7, 8, 10].contains(&i) {
            events.extend(receiver.push(packet, NOW));
        }
    }
    let lost: Vec<&AudioEvent> =
        events.iter().filter(|event| matches!(event, AudioEvent::Lost { .. })).collect();
    assert_eq!(lost, [&AudioEvent::Lost { first: 5, count: 2 }]);
    assert_eq!(played(&events).len(), 10);
    assert_eq!(receiver.statistics().lost, 2);
}

#[test]
fn whole_blocks_can_be_lost() {
    let (case, parameters) = cases().remove(2);
    let packets = array(&case["packets"]);
    let mut receiver = AudioReceiver::new(&parameters);
    let mut events = Vec::new();
    for packet in packets[..6].iter().chain(&packets[18..]) {
        events.extend(receiver.push(&unhex(&packet["packet"]), NOW));
    }
    assert!(events.contains(&AudioEvent::Lost { first: 65532, count: 8 }), "{events:?}");
    assert_eq!(played(&events).len(), 8);
}

#[test]
fn packets_out_of_order_are_waited_for_once_that_was_seen() {
    let (case, parameters) = cases().remove(0);
    let packets: Vec<Vec<u8>> =
        array(&case["packets"]).iter().map(|packet| unhex(&packet["packet"])).collect();
    // Packets 9 and 10 are the parity of nothing that is needed; data 5, 6 and 7 come late.
    let order = [0, 1, 3, 2, 6, 12, 7, 8, 9, 13, 14, 15];
    let mut receiver = AudioReceiver::new(&parameters);
    let events: Vec<AudioEvent> =
        order.iter().flat_map(|&i| receiver.push(&packets[i], NOW)).collect();
    assert_eq!(played(&events), opus_packets(&case));
    // Ten milliseconds later the gap would have been given up.
    let mut receiver = AudioReceiver::new(&parameters);
    let mut events = Vec::new();
    for (at, &i) in order.iter().enumerate() {
        events.extend(receiver.push(&packets[i], Time::from_millis(20 * at as u64)));
    }
    assert!(events.iter().any(|event| matches!(event, AudioEvent::Lost { .. })));
}

#[test]
fn payloads_of_a_block_must_have_one_size() {
    let parameters = AudioParameters { packet_ms: 5, encryption: None };
    let mut packetizer = AudioPacketizer::new(&parameters, 0, 0);
    assert!(packetizer.push(&[1; 100]).is_ok());
    let refused = packetizer.push(&[1; 99]).map(Iterator::count);
    assert_eq!(refused, Err(PacketError::Uneven { bytes: 99, expected: 100 }));
    assert_eq!(packetizer.sequence(), 1);
    for _ in 1..4 {
        assert!(packetizer.push(&[1; 100]).is_ok());
    }
    assert!(packetizer.push(&[1; 99]).is_ok());
    // Padding hides small differences.
    let encryption = Some(Encryption { key: SessionKey([1; 16]), rikeyid: -1 });
    let mut packetizer = AudioPacketizer::new(&AudioParameters { packet_ms: 5, encryption }, 0, 0);
    assert!(packetizer.push(&[1; 100]).is_ok());
    assert!(packetizer.push(&[1; 99]).is_ok());
}

#[test]
fn no_datagram_is_longer_than_clients_read() {
    for encryption in [None, Some(Encryption { key: SessionKey([1; 16]), rikeyid: i32::MIN })] {
        let parameters = AudioParameters { packet_ms: 10, encryption };
        for bytes in 1300..1500 {
            let mut packetizer = AudioPacketizer::new(&parameters, 0, 0);
            for _ in 0..4 {
                match packetizer.push(&vec![1; bytes]) {
                    Ok(mut sent) => assert!(sent.all(|d| d.len() <= DATAGRAM_BYTES_MAX)),
                    Err(error) => assert_eq!(error, PacketError::TooLong { bytes }),
                }
            }
        }
    }
}

#[test]
fn negative_key_ids_wrap() {
    let cipher = |rikeyid| cipher::PacketCipher::new(&SessionKey([5; 16]), rikeyid);
    let encrypt = |rikeyid, sequence| {
        let mut bytes = b"opus".to_vec();
        cipher(rikeyid).encrypt(sequence, &mut bytes);
        bytes
    };
    assert_eq!(encrypt(-1, 1), encrypt(0, 0));
    assert_eq!(encrypt(i32::MAX, 1), encrypt(i32::MIN, 0));
    assert_eq!(cipher(-1).decrypt(1, &encrypt(0, 0)), Some(b"opus".to_vec()));
    assert_eq!(cipher(-1).decrypt(1, &encrypt(0, 0)[..15]), None);
    assert_eq!(cipher(-1).decrypt(1, &[]), None);
}

proptest! {
    #[test]
    fn no_bytes_harm_the_receiver(
        flips in prop::collection::vec((0usize..24, any::<u8>(), 0usize..24), 0..30),
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
        ms in 0u64..20, which in 0usize..3,
    ) {
        let (case, parameters) = cases().remove(which);
        let mut packets: Vec<Vec<u8>> =
            array(&case["packets"]).iter().map(|packet| unhex(&packet["packet"])).collect();
        for (at, value, packet) in flips {
            if let Some(packet) = packets.get_mut(packet) {
                packet[at] = value;
            }
        }
        let mut receiver = AudioReceiver::new(&parameters);
        for (i, packet) in packets.iter().chain(&noise).chain(&packets).enumerate() {
            receiver.push(packet, Time::from_millis(ms * i as u64));
        }
        let statistics = receiver.statistics();
        let counted = statistics.malformed + statistics.late + statistics.duplicate
            + statistics.data + statistics.parity;
        prop_assert_eq!(counted, statistics.datagrams);
    }
}
