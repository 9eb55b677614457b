//! The UDP pings by which a client shows where video and audio are to go.
//!
//! It knows the bytes only. Whether a payload is a viewer's, and what its source address then means,
//! is the door's business.
//!
//! | Kind | Bytes |
//! |---|---|
//! | legacy | `PING` |
//! | with payload | 16 bytes of `X-SS-Ping-Payload`, u32 big-endian counter from 1 |
//!
//! Source: moonlight-common-c src/VideoStream.c, src/AudioStream.c (`SS_PING`).

/// What `X-SS-Ping-Payload` announces and every ping then carries: printable, the first byte not zero.
pub type Payload = [u8; 16];

/// A datagram of the video or audio port that is a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// Four bytes without identity; only the source address speaks.
    Legacy,
    /// The payload of one stream, and a counter that starts at 1.
    Identified { payload: Payload, sequence: u32 },
}

const LEGACY: &[u8; 4] = b"PING";

impl Ping {
    /// `None`: not a ping. Bytes behind the counter are allowed for later extensions.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram == LEGACY {
            return Some(Self::Legacy);
        }
        let (payload, rest) = datagram.split_first_chunk()?;
        let (sequence, _) = rest.split_first_chunk()?;
        Some(Self::Identified { payload: *payload, sequence: u32::from_be_bytes(*sequence) })
    }

    /// The datagram of this ping.
    pub fn write(&self) -> Vec<u8> {
        match self {
            Self::Legacy => LEGACY.to_vec(),
            Self::Identified { payload, sequence } => {
                [&payload[..], &sequence.to_be_bytes()[..]].concat()
            }
        }
    }
}

/// The payload made of 64 unpredictable bits: 16 upper-case hexadecimal digits, so it is printable and
/// can be sent in a header as it is. Never equal to the legacy `PING` in its first four bytes.
pub fn payload_from(random: u64) -> Payload {
    let text = format!("{random:016X}");
    text.into_bytes().try_into().expect("16 digits")
}

/// A client's reading of `X-SS-Ping-Payload`: any other length means legacy pings.
pub fn payload_of_header(value: &str) -> Option<Payload> {
    let payload: Payload = value.as_bytes().try_into().ok()?;
    (payload[0] != 0).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::vectors;
    use proptest::prelude::*;

    #[test]
    fn golden_pings() {
        let golden = vectors::load("ping");
        let header = golden["ping_payload_header"].as_str().unwrap();
        let payload = payload_of_header(header).unwrap();
        let legacy = vectors::bytes(&golden["legacy"]);
        assert_eq!(Ping::parse(&legacy), Some(Ping::Legacy));
        assert_eq!(Ping::Legacy.write(), legacy);
        let examples = golden["examples"].as_array().unwrap();
        assert_eq!(examples.len(), 3);
        for example in examples {
            let datagram = vectors::bytes(&example["datagram"]);
            let sequence = u32::try_from(example["sequence"].as_u64().unwrap()).unwrap();
            let ping = Ping::parse(&datagram).unwrap();
            assert_eq!(ping, Ping::Identified { payload, sequence });
            assert_eq!(ping.write(), datagram);
            for end in 0..datagram.len() {
                assert_eq!(Ping::parse(&datagram[..end]), None, "prefix of {end} bytes");
            }
        }
        for end in 0..legacy.len() {
            assert_eq!(Ping::parse(&legacy[..end]), None);
        }
    }

    #[test]
    fn payloads_are_sixteen_printable_bytes() {
        assert_eq!(&payload_from(0x94C9_64FB_96F6_8711), b"94C964FB96F68711");
        assert_eq!(&payload_from(1), b"0000000000000001");
        assert_eq!(payload_of_header("94C964FB96F6871"), None);
        assert_eq!(payload_of_header(""), None);
    }

    proptest! {
        #[test]
        fn any_bytes(datagram in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(ping) = Ping::parse(&datagram) {
                prop_assert!(datagram.starts_with(&ping.write()));
            }
        }
    }
}
