//! Golden control messages, forgeries, replays.
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::proto::vectors;

fn direction(entry: &Value) -> Direction {
    match entry["direction"].as_str().unwrap() {
        "client_to_host" => Direction::ClientToHost,
        "host_to_client" => Direction::HostToClient,
        other => panic!("{other}"),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number: {value}"))
}

fn short(value: &Value) -> u16 {
    u16::try_from(number(value)).unwrap()
}

fn key() -> SessionKey {
    SessionKey(vectors::key(&vectors::load("control_packets")["key"]))
}

#[test]
fn golden_envelopes() {
    let golden = vectors::load("control_packets");
    let entries = golden["encrypted"].as_array().unwrap();
    assert_eq!(entries.len(), 36);
    for entry in entries {
        let version = match entry["scheme"].as_str().unwrap() {
            "v1" => Version::V1,
            "v2" => Version::V2,
            other => panic!("{other}"),
        };
        let direction = direction(entry);
        let sequence = u32::try_from(number(&entry["seq"])).unwrap();
        let packet = vectors::bytes(&entry["packet"]);
        let plaintext = vectors::bytes(&entry["plaintext"]);
        let golden_iv = vectors::bytes(&entry["iv"]);
        match version {
            Version::V1 => assert_eq!(iv_v1(sequence).to_vec(), golden_iv),
            Version::V2 => {
                assert_eq!(message_iv(sequence, direction, PLANE).to_vec(), golden_iv);
            }
        }
        let opened = open(&key(), version, direction, &packet).unwrap();
        assert_eq!(opened.sequence, sequence);
        assert_eq!(u32::from(opened.kind), vectors::hex_number(&entry["inner_type"]));
        assert_eq!(opened.payload(), vectors::bytes(&entry["inner_payload"]));
        assert_eq!(opened.bytes, plaintext);
        assert_eq!(seal(&key(), version, direction, sequence, &plaintext), packet);
        assert_eq!(inner(opened.kind, opened.payload()), plaintext);
        for end in 0..packet.len() {
            let refused = open(&key(), version, direction, &packet[..end]);
            assert_eq!(refused.unwrap_err(), OpenError::Size, "prefix of {end} bytes");
        }
    }
}

#[test]
fn forged_packets_are_refused_and_change_nothing() {
    let golden = vectors::load("control_packets");
    let mut window = OpenWindow::new(key(), Version::V2, Direction::ClientToHost);
    let cases = golden["must_reject_v2_client_to_host"].as_array().unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let expected = match case["name"].as_str().unwrap() {
            "runt" | "length_beyond_datagram" => OpenError::Size,
            "unencrypted_on_encrypted_stream" => OpenError::Plaintext,
            _ => OpenError::Forged,
        };
        let packet = vectors::bytes(&case["packet"]);
        assert_eq!(window.open(&packet).unwrap_err(), expected, "{case}");
    }
    let valid = vectors::bytes(&golden["encrypted"][0]["packet"]);
    assert!(cases.iter().all(|case| !window.admits(&vectors::bytes(&case["packet"]))));
    assert!(window.admits(&valid) && window.admits(&valid));
    assert!(window.open(&valid).is_ok());
    assert!(!window.admits(&valid));
    assert_eq!(window.open(&valid).unwrap_err(), OpenError::Replayed);
}

#[test]
fn golden_client_messages() {
    let golden = vectors::load("control_packets");
    let mut seen = 0;
    for entry in golden["messages"].as_array().unwrap() {
        if direction(entry) != Direction::ClientToHost {
            continue;
        }
        seen += 1;
        let kind = u16::try_from(vectors::hex_number(&entry["type"])).unwrap();
        let payload = vectors::bytes(&entry["payload"]);
        let fields = &entry["fields"];
        let expected = match entry["name"].as_str().unwrap() {
            "request_idr" => Message::RequestIdr,
            "start_b" => Message::StartB,
            "periodic_ping" => Message::Ping,
            "invalidate_reference_frames" => Message::InvalidateReferenceFrames {
                first: u32::try_from(number(&fields["first_frame"])).unwrap(),
                last: u32::try_from(number(&fields["last_frame"])).unwrap(),
            },
            "ltr_frame_ack" => {
                Message::LtrAck { frame: u32::try_from(number(&fields["frame_index"])).unwrap() }
            }
            "frame_fec_status" => Message::FecStatus(FecStatus {
                frame: u32::try_from(number(&fields["frame_index"])).unwrap(),
                highest_received: short(&fields["highest_received_seq"]),
                next_contiguous: short(&fields["next_contiguous_seq"]),
                missing_before_highest: short(&fields["missing_before_highest"]),
                data_packets: short(&fields["total_data"]),
                parity_packets: short(&fields["total_parity"]),
                received_data: short(&fields["received_data"]),
                received_parity: short(&fields["received_parity"]),
                fec_percent: u8::try_from(number(&fields["fec_percentage"])).unwrap(),
                block: u8::try_from(number(&fields["block_index"])).unwrap(),
                blocks: u8::try_from(number(&fields["block_count"])).unwrap(),
            }),
            "loss_stats_legacy" => Message::LossStatistics {
                interval_ms: u32::try_from(number(&fields["interval_ms"])).unwrap(),
                last_good_frame: number(&fields["last_good_frame"]),
            },
            "input_mouse_move_rel" => Message::Input(&payload),
            other => panic!("{other}"),
        };
        let message = Message::parse_payload(kind, &payload).unwrap();
        assert_eq!(message, expected);
        assert_eq!(message.write(), inner(kind, &payload), "{entry}");
        if !matches!(message, Message::Input(_)) {
            for end in 0..payload.len() {
                assert_eq!(Message::parse_payload(kind, &payload[..end]), None, "{entry}");
            }
        }
    }
    assert_eq!(seen, 8);
}

fn expected_feedback(name: &str, fields: &Value) -> Feedback {
    match name {
        "rumble" => Feedback::Rumble {
            controller: short(&fields["controller"]),
            low: short(&fields["low_freq"]),
            high: short(&fields["high_freq"]),
        },
        "rumble_triggers" => Feedback::TriggerRumble {
            controller: short(&fields["controller"]),
            left: short(&fields["left"]),
            right: short(&fields["right"]),
        },
        "set_motion_event" => Feedback::Motion {
            controller: short(&fields["controller"]),
            hertz: short(&fields["report_rate_hz"]),
            sensor: u8::try_from(number(&fields["motion_type"])).unwrap(),
        },
        "set_rgb_led" => Feedback::Led {
            controller: short(&fields["controller"]),
            red: u8::try_from(number(&fields["r"])).unwrap(),
            green: u8::try_from(number(&fields["g"])).unwrap(),
            blue: u8::try_from(number(&fields["b"])).unwrap(),
        },
        "set_adaptive_triggers" => Feedback::AdaptiveTriggers {
            controller: short(&fields["controller"]),
            flags: u8::try_from(number(&fields["event_flags"])).unwrap(),
            left_kind: u8::try_from(number(&fields["type_left"])).unwrap(),
            right_kind: u8::try_from(number(&fields["type_right"])).unwrap(),
            left: vectors::bytes(&fields["left"]).try_into().unwrap(),
            right: vectors::bytes(&fields["right"]).try_into().unwrap(),
        },
        "hdr_mode_off" => Feedback::HdrMode(None),
        "hdr_mode_on" => {
            let point = |value: &Value| (short(&value[0]), short(&value[1]));
            let primaries = &fields["primaries"];
            Feedback::HdrMode(Some(HdrMetadata {
                primaries: [point(&primaries[0]), point(&primaries[1]), point(&primaries[2])],
                white_point: point(&fields["white_point"]),
                luminance_max: short(&fields["max_display_luminance"]),
                luminance_min: short(&fields["min_display_luminance"]),
                content_light_max: short(&fields["max_cll"]),
                frame_average_light_max: short(&fields["max_fall"]),
                full_frame_luminance_max: short(&fields["max_full_frame_luminance"]),
            }))
        }
        _ => Feedback::Termination { code: vectors::hex_number(&fields["error_code"]) },
    }
}

#[test]
fn golden_host_messages() {
    let golden = vectors::load("control_packets");
    let mut seen = 0;
    for entry in golden["messages"].as_array().unwrap() {
        if direction(entry) != Direction::HostToClient {
            continue;
        }
        seen += 1;
        let kind = u16::try_from(vectors::hex_number(&entry["type"])).unwrap();
        let payload = vectors::bytes(&entry["payload"]);
        let expected = expected_feedback(entry["name"].as_str().unwrap(), &entry["fields"]);
        assert_eq!(expected.write(), inner(kind, &payload), "{entry}");
        assert_eq!(Feedback::parse(kind, &payload), Some(expected));
        let is_hdr = entry["name"].as_str().unwrap().starts_with("hdr");
        for end in 0..if is_hdr { 1 } else { payload.len() } {
            assert_eq!(Feedback::parse(kind, &payload[..end]), None, "{entry}");
        }
    }
    assert_eq!(seen, 10);
    assert_eq!(Feedback::parse(0x0203, &[0; 64]), None, "unknown types are ignored");
}

#[test]
fn unknown_client_types_are_unknown() {
    assert_eq!(Message::parse_payload(0x5510, &[1, 2, 3]), Some(Message::Unknown { kind: 0x5510 }));
}

#[test]
fn an_inner_length_that_lies_is_refused() {
    for wrong in [
        vec![0x02, 0x03, 0x03, 0x00, 0, 0],
        vec![0x02, 0x03, 0x01, 0x00, 0, 0],
        vec![0x02, 0x03, 0xFF, 0xFF, 0, 0],
        vec![0x01, 0x00, 0x02, 0x00, 0, 0],
    ] {
        let packet = seal(&key(), Version::V2, Direction::ClientToHost, 9, &wrong);
        let mut window = OpenWindow::new(key(), Version::V2, Direction::ClientToHost);
        assert_eq!(window.open(&packet).unwrap_err(), OpenError::Inner);
    }
}

#[test]
fn a_sender_counts_from_zero_and_keeps_the_last_number_back() {
    let mut sender = SealedSender::new(key(), Version::V2, Direction::HostToClient);
    let message = Feedback::Termination { code: TERMINATED_BY_HOST }.write();
    for expected in 0..3 {
        let packet = sender.seal(&message).unwrap();
        let opened = open(&key(), Version::V2, Direction::HostToClient, &packet).unwrap();
        assert_eq!(opened.sequence, expected);
    }
    sender.next = LAST_WILL_SEQUENCE - 1;
    assert!(sender.seal(&message).is_ok());
    assert_eq!(sender.seal(&message), Err(SequenceSpent));
    let will = sender.last_will(&message);
    let opened = open(&key(), Version::V2, Direction::HostToClient, &will).unwrap();
    assert_eq!(opened.sequence, LAST_WILL_SEQUENCE);
    let read = Feedback::parse(opened.kind, opened.payload());
    assert_eq!(read, Some(Feedback::Termination { code: TERMINATED_BY_HOST }));
}

#[test]
fn no_key_is_printed() {
    let sender = SealedSender::new(SessionKey([0xAB; 16]), Version::V2, Direction::HostToClient);
    let window = OpenWindow::new(SessionKey([0xAB; 16]), Version::V2, Direction::HostToClient);
    let printed = format!("{sender:?} {window:?}");
    assert!(!printed.contains("171") && !printed.to_lowercase().contains("ab, ab"));
}

fn packet(sequence: u32) -> Vec<u8> {
    let message = Message::Ping.write();
    seal(&key(), Version::V2, Direction::ClientToHost, sequence, &message)
}

#[test]
fn reordered_messages_open_once() {
    let mut window = OpenWindow::new(key(), Version::V2, Direction::ClientToHost);
    for sequence in [7, 5, 6, 0, 2054, u32::MAX, u32::MAX - 2047] {
        assert!(window.open(&packet(sequence)).is_ok(), "{sequence}");
        assert_eq!(window.open(&packet(sequence)).unwrap_err(), OpenError::Replayed);
    }
    assert_eq!(window.open(&packet(u32::MAX - 2048)).unwrap_err(), OpenError::Replayed);
    assert_eq!(window.open(&packet(7)).unwrap_err(), OpenError::Replayed);
}

proptest! {
    #[test]
    fn the_window_agrees_with_a_set(steps in prop::collection::vec(0_u32..6000, 1..400)) {
        let mut window = OpenWindow::new(key(), Version::V2, Direction::ClientToHost);
        let mut opened = std::collections::BTreeSet::new();
        for sequence in steps {
            let highest = opened.last().copied();
            let behind = highest.is_some_and(|highest: u32| sequence + WINDOW <= highest);
            let expected = !behind && !opened.contains(&sequence);
            prop_assert_eq!(window.is_new(sequence), expected);
            if expected {
                window.mark(sequence);
                opened.insert(sequence);
            }
        }
    }

    #[test]
    fn any_packet(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut window = OpenWindow::new(key(), Version::V2, Direction::ClientToHost);
        prop_assert!(window.open(&bytes).is_err());
        let mut lying = vec![1, 0];
        lying.extend_from_slice(&bytes);
        prop_assert!(open(&key(), Version::V1, Direction::ClientToHost, &lying).is_err());
    }

    #[test]
    fn any_payload(kind: u16, payload in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Some(message) = Message::parse_payload(kind, &payload) {
            let written = message.write();
            let again = Message::parse_payload(kind, &written[4..]);
            prop_assert_eq!(again, Some(message));
        }
        if let Some(feedback) = Feedback::parse(kind, &payload) {
            let written = feedback.write();
            prop_assert_eq!(Feedback::parse(kind, &written[4..]), Some(feedback));
        }
    }

    #[test]
    fn sealing_and_opening(sequence: u32, payload in prop::collection::vec(any::<u8>(), 0..300)) {
        for version in [Version::V1, Version::V2] {
            let sealed = seal(&key(), version, Direction::HostToClient, sequence, &inner(0x0206, &payload));
            let opened = open(&key(), version, Direction::HostToClient, &sealed).unwrap();
            prop_assert_eq!(opened.payload(), &payload[..]);
            let wrong_way = open(&key(), Version::V2, Direction::ClientToHost, &sealed);
            prop_assert_eq!(wrong_way.unwrap_err(), OpenError::Forged);
        }
    }
}
