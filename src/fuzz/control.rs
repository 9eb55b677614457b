//! The control stream: ENet datagrams, the sealed envelope, its replay window, messages and input.
use std::collections::BTreeSet;

use super::{CONTROL_KEY, records};
use crate::limits::{CONTROL_MESSAGE_BYTES_MAX, ENET_CHANNELS, TEXT_BYTES_MAX};
use crate::proto::control::{
    Direction, Feedback, HEADER_BYTES, Message, OpenError, OpenWindow, Version, open, seal,
};
use crate::proto::enet::{self, Command};
use crate::proto::input::{self, InputEvent};
use crate::proto::keymap;

const VERSIONS: [Version; 2] = [Version::V1, Version::V2];
const DIRECTIONS: [Direction; 2] = [Direction::ClientToHost, Direction::HostToClient];

/// A datagram of the control port.
pub fn enet(datagram: &[u8]) {
    let peek = enet::peek(datagram);
    if enet::is_whole(datagram) {
        assert!(datagram.len() >= 6, "a header and one command");
    }
    let packets: usize = enet::packets(datagram).map(|packet| packet.len() + 1).sum();
    assert!(packets <= datagram.len().max(1), "packets lie apart in the datagram");

    let (wide, local) = (0x5A5, 0);
    let mut rewritten = datagram.to_vec();
    if !enet::rewrite_incoming(&mut rewritten, wide, local) {
        assert_eq!(rewritten, datagram, "what is for another stays as it is");
    } else if peek.is_some_and(|peek| peek.peer.is_some()) {
        assert_eq!(enet::peek(&rewritten).and_then(|peek| peek.peer), Some(local));
        assert_eq!(enet::is_whole(&rewritten), enet::is_whole(datagram));
        assert!(enet::rewrite_incoming(&mut rewritten, local, wide));
        assert_eq!(rewritten, datagram);
    }
    let mut outgoing = datagram.to_vec();
    let is_sound = enet::rewrite_outgoing(&mut outgoing, local, wide);
    assert_eq!(outgoing.len(), datagram.len());
    assert!(!enet::is_whole(datagram) || is_sound);
    if let (true, Some(peek)) = (is_sound, enet::peek(&outgoing))
        && let Command::VerifyConnect { peer, .. } = peek.first
    {
        assert_ne!(peer, local, "a client never learns the local number");
    }
}

/// A packet as it comes out of ENet, under the recorded key; then the same bytes as an inner message.
pub fn sealed(packet: &[u8]) {
    for version in VERSIONS {
        for direction in DIRECTIONS {
            let opened = open(&CONTROL_KEY, version, direction, packet);
            let mut window = OpenWindow::new(CONTROL_KEY, version, direction);
            assert_eq!(window.admits(packet), opened.is_ok());
            assert_eq!(window.open(packet), opened);
            if let Ok(inner) = opened {
                assert_eq!(window.open(packet), Err(OpenError::Replayed));
                _ = Message::parse(&inner);
            }
        }
        envelope(version, packet);
    }
}

/// What is sealed opens, unless it is no inner message; one bit more or less and it does not.
fn envelope(version: Version, plain: &[u8]) {
    let plain = &plain[..plain.len().min(CONTROL_MESSAGE_BYTES_MAX)];
    let packet = seal(&CONTROL_KEY, version, Direction::ClientToHost, 7, plain);
    assert_eq!(packet.len(), HEADER_BYTES + plain.len());
    match open(&CONTROL_KEY, version, Direction::ClientToHost, &packet) {
        Ok(inner) => {
            assert_eq!(inner.payload(), &plain[4..]);
            assert_eq!((inner.kind.to_le_bytes(), inner.sequence), ([plain[0], plain[1]], 7));
            _ = Message::parse(&inner);
        }
        Err(error) => assert!(
            error == OpenError::Inner || error == OpenError::Size && plain.len() < 4,
            "{error}"
        ),
    }
    let mut altered = packet;
    let at = 8 + plain.first().map_or(0, |byte| usize::from(*byte)) % (altered.len() - 8);
    altered[at] ^= 1;
    let opened = open(&CONTROL_KEY, version, Direction::ClientToHost, &altered);
    assert!(matches!(opened, Err(OpenError::Forged | OpenError::Size)));
}

/// Sequence numbers in any order: each opens once, unless it lies far behind the highest.
pub fn replay(bytes: &[u8]) {
    let mut window = OpenWindow::new(CONTROL_KEY, Version::V2, Direction::ClientToHost);
    let mut opened = BTreeSet::new();
    for number in bytes.as_chunks::<4>().0.iter().take(512) {
        let number = u32::from_be_bytes(*number);
        let message = Message::Ping.write();
        let packet = seal(&CONTROL_KEY, Version::V2, Direction::ClientToHost, number, &message);
        let end = opened.last().map_or(0, |last| u64::from(*last) + 1);
        let is_fresh = u64::from(number) + 2048 >= end && !opened.contains(&number);
        assert_eq!(window.admits(&packet), is_fresh, "{number} after {opened:?}");
        let result = window.open(&packet).map(|inner| inner.sequence);
        assert_eq!(result, if is_fresh { Ok(number) } else { Err(OpenError::Replayed) });
        opened.insert(number);
    }
}

/// An inner message in the clear: u16le type and payload, in either direction.
pub fn plain(bytes: &[u8]) {
    let Some((kind, payload)) = bytes.split_first_chunk() else { return };
    let kind = u16::from_le_bytes(*kind);
    let is_same = |written: &[u8], read: &dyn Fn(u16, &[u8])| {
        let (header, payload) = written.split_first_chunk::<4>().expect("type and length");
        let length = usize::from(u16::from_le_bytes([header[2], header[3]]));
        assert_eq!(length, payload.len());
        read(u16::from_le_bytes([header[0], header[1]]), payload);
    };
    // A payload longer than its length field cannot have come.
    let payload = &payload[..payload.len().min(CONTROL_MESSAGE_BYTES_MAX)];
    if let Some(message) = Message::parse_payload(kind, payload) {
        is_same(&message.write(), &|kind, payload| {
            assert_eq!(Message::parse_payload(kind, payload), Some(message));
        });
    }
    if let Some(feedback) = Feedback::parse(kind, payload) {
        is_same(&feedback.write(), &|kind, payload| {
            assert_eq!(Feedback::parse(kind, payload).as_ref(), Some(&feedback));
        });
    }
}

/// One input event or a sequence of them.
pub fn input(bytes: &[u8]) {
    event(bytes);
    records(bytes).take(64).for_each(event);
}

fn event(payload: &[u8]) {
    let Ok(event) = InputEvent::parse(payload) else { return };
    let written = event.write();
    assert!(written.len() <= 8 + 64, "events are short");
    assert_eq!(InputEvent::parse(&written).as_ref(), Ok(&event));
    assert!(usize::from(event.channel()) < ENET_CHANNELS);
    _ = event.is_reliable();
    let within = |numbers: &[f32], limit: f32| numbers.iter().all(|n| n.abs() <= limit);
    match event {
        InputEvent::Text(text) => assert!((1..=TEXT_BYTES_MAX).contains(&text.len())),
        InputEvent::Key { vk, .. } => {
            _ = keymap::evdev_of_not_normalised(vk.into());
            if let Some(key) = keymap::evdev_of(vk.into()) {
                assert_eq!(
                    keymap::vk_of(key).and_then(|vk| keymap::evdev_of(vk.into())),
                    Some(key)
                );
            }
        }
        InputEvent::MouseAbsolute { x, y, width, height } => {
            assert!(x <= width && y <= height && width > 0 && height > 0);
        }
        InputEvent::ControllerMotion { x, y, z, .. } => {
            assert!(within(&[x, y, z], input::MOTION_MAX));
        }
        InputEvent::ControllerTouch { x, y, pressure, .. } => {
            assert!(within(&[x, y, pressure], 1.0));
        }
        InputEvent::Touch(touch) => assert!(within(&[touch.x, touch.y, touch.pressure], 1.0)),
        InputEvent::Pen(pen) => assert!(within(&[pen.x, pen.y, pen.pressure], 1.0)),
        _ => {}
    }
}
