//! Golden handshakes both ways, forgeries, fragmentation.
use proptest::prelude::*;
use serde_json::Value;

use super::client::ClientRequest;
use super::client::ClientResponse;
use super::client::Refused;
use super::client::number_of;
use super::*;
use crate::proto::ping;
use crate::proto::vectors;

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// Requests and responses of both golden handshakes.
fn golden_exchanges() -> Vec<(Vec<u8>, Vec<u8>)> {
    let plain = vectors::load("rtsp-plain-remote-51-av1");
    let sealed = vectors::load("rtsp-encrypted-local-stereo-hevc");
    let mut exchanges = Vec::new();
    for message in plain["messages"].as_array().unwrap() {
        let (request, response) = (text(&message["request"]), text(&message["response"]));
        assert_eq!(request.len() as u64, message["request_length"].as_u64().unwrap());
        assert_eq!(response.len() as u64, message["response_length"].as_u64().unwrap());
        exchanges.push((request.into(), response.into()));
    }
    for exchange in sealed["exchanges"].as_array().unwrap() {
        let request = text(&exchange["request"]["plaintext"]).into();
        exchanges.push((request, text(&exchange["response"]["plaintext"]).into()));
    }
    assert_eq!(exchanges.len(), 14);
    exchanges
}

/// Writes a response again from what a client reads in it.
fn rewritten(read: &ClientResponse, cseq: u32) -> Response {
    let mut response = Response::ok(cseq);
    if let Some(token) = read.session() {
        response = response.session(token);
    }
    if let Some(port) = read.server_port() {
        response = response.server_port(port);
    }
    if let Some(payload) = read.ping_payload() {
        response = response.ping_payload(&payload);
    }
    if read.header("X-SS-Connect-Data").is_some() {
        response = response.connect_data(read.connect_data());
    }
    response.body(read.body.clone().unwrap_or_default())
}

#[test]
fn golden_handshakes() {
    for (n, (request_bytes, response_bytes)) in golden_exchanges().iter().enumerate() {
        let step = n % 7;
        let request = Request::parse(request_bytes).unwrap();
        let methods = [
            Method::Options,
            Method::Describe,
            Method::Setup,
            Method::Setup,
            Method::Setup,
            Method::Announce,
            Method::Play,
        ];
        assert_eq!(request.method, methods[step]);
        assert_eq!(request.cseq as usize, step + 1);
        assert_eq!(request.header("x-gs-clientversion"), Some("14"));
        assert_eq!(request.header("X-GS-CLIENTVERSION"), Some("14"));
        assert_eq!(request.host(), if n < 7 { "0.0.0.0" } else { "192.168.1.10" });
        assert_eq!(request.session(), if step < 3 { None } else { Some("DEADBEEFCAFE") });
        let flows = [None, None, Some(Flow::Audio), Some(Flow::Video), Some(Flow::Control)];
        assert_eq!(request.stream(), *flows.get(step).unwrap_or(&request.stream()));
        if let Some(flow) = request.stream() {
            assert_eq!(request.target, target_of(flow));
        }
        let again = ClientRequest {
            method: request.method,
            target: &request.target,
            cseq: request.cseq,
            host: request.host(),
            session: request.session(),
            body: std::str::from_utf8(&request.body).unwrap(),
        };
        assert_eq!(&again.write(), request_bytes);
        let read = ClientResponse::parse(response_bytes).unwrap();
        assert_eq!(read.status, 200);
        assert_eq!(read.header("CSeq"), Some((step + 1).to_string().as_str()));
        assert_eq!(&rewritten(&read, request.cseq).write(), response_bytes);
    }
}

#[test]
fn every_prefix_of_a_request_is_refused() {
    for (request, _) in golden_exchanges() {
        for end in 0..request.len() {
            assert!(Request::parse(&request[..end]).is_err(), "prefix of {end} bytes");
            assert_eq!(Framer::new().push(&request[..end]), Ok(None), "prefix of {end} bytes");
        }
        assert_eq!(Framer::new().push(&request), Ok(Some(Frame::Plain(request.clone()))));
    }
}

#[test]
fn golden_seals() {
    let golden = vectors::load("rtsp-encrypted-local-stereo-hevc");
    let key = SessionKey(vectors::key(&golden["rikey"]));
    let exchanges = golden["exchanges"].as_array().unwrap();
    assert_eq!(exchanges.len(), 7);
    for exchange in exchanges {
        for (part, direction) in
            [("request", Direction::ClientToHost), ("response", Direction::HostToClient)]
        {
            let entry = &exchange[part];
            let wire = vectors::bytes(&entry["wire"]);
            let plaintext = text(&entry["plaintext"]).as_bytes();
            let sequence = u32::try_from(entry["sequence"].as_u64().unwrap()).unwrap();
            assert_eq!(plaintext.len() as u64, entry["plaintext_length"].as_u64().unwrap());
            let iv = message_iv(sequence, direction, PLANE);
            assert_eq!(iv.to_vec(), vectors::bytes(&entry["iv"]));
            assert_eq!(open(&key, &wire, direction).unwrap(), (sequence, plaintext.to_vec()));
            assert_eq!(seal(&key, sequence, direction, plaintext), wire);
            assert_eq!(wire[..4], vectors::bytes(&entry["type_and_length"]));
            assert_eq!(wire[8..24], vectors::bytes(&entry["tag"]));
            assert_eq!(wire[24..], vectors::bytes(&entry["ciphertext"]));
            for end in 0..wire.len() {
                let prefix = &wire[..end];
                assert_eq!(open(&key, prefix, direction).unwrap_err(), OpenError::Size);
                assert_eq!(Framer::new().push(prefix), Ok(None));
            }
            let longer = [wire.as_slice(), &[0]].concat();
            assert_eq!(open(&key, &longer, direction).unwrap_err(), OpenError::Size);
            assert_eq!(Framer::new().push(&wire), Ok(Some(Frame::Sealed(wire.clone()))));
        }
    }
}

#[test]
fn a_client_may_start_at_any_sequence() {
    let key = SessionKey([7; 16]);
    for sequence in [8, 14, u32::MAX] {
        let wire = seal(&key, sequence, Direction::ClientToHost, b"PLAY");
        assert_eq!(
            open(&key, &wire, Direction::ClientToHost).unwrap(),
            (sequence, b"PLAY".to_vec())
        );
    }
}

#[test]
fn forged_messages_are_refused() {
    let golden = vectors::load("rtsp-encrypted-negative");
    let key = SessionKey(vectors::key(&golden["rikey"]));
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let wire = vectors::bytes(&case["wire"]);
        let opened = open(&key, &wire, Direction::ClientToHost);
        match text(&case["name"]) {
            "valid" => {
                assert_eq!(case["expect"], "accept");
                assert_eq!(opened.unwrap().1, text(&case["plaintext"]).as_bytes());
            }
            "encrypted bit clear" | "plain text request on an encrypted session" => {
                assert_eq!(opened.unwrap_err(), OpenError::Plaintext);
                let mut framer = Framer::new();
                let _ = framer.push(&wire);
                assert!(
                    !framer.is_sealed(),
                    "framed as plain, so it never reaches a sealed session"
                );
            }
            _ => {
                assert_eq!(case["expect"], "reject");
                assert_eq!(opened.unwrap_err(), OpenError::Forged);
            }
        }
    }
}

#[test]
fn a_message_may_come_in_single_bytes() {
    for (request, _) in golden_exchanges() {
        let mut framer = Framer::new();
        assert!(framer.is_empty());
        let (last, before) = request.split_last().unwrap();
        for byte in before {
            assert_eq!(framer.push(&[*byte]), Ok(None));
        }
        assert_eq!(framer.push(&[*last]), Ok(Some(Frame::Plain(request.clone()))));
    }
}

#[test]
fn what_follows_a_message_is_not_looked_at() {
    let first = b"OPTIONS rtsp://h RTSP/1.0\r\nCSeq: 4\r\n\r\n";
    let pipelined = [&first[..], b"PLAY / RTSP/1.0\r\n\r\n"].concat();
    assert_eq!(Framer::new().push(&pipelined), Ok(Some(Frame::Plain(first.to_vec()))));
}

#[test]
fn lengths_are_bounded_before_anything_is_stored() {
    let announce = |length: &str| {
        let head = format!("ANNOUNCE x RTSP/1.0\r\nCSeq: 6\r\nContent-length: {length}\r\n\r\n");
        Framer::new().push(head.as_bytes())
    };
    for huge in ["10485760", "65536", "18446744073709551615", "99999999999999999999999"] {
        assert_eq!(announce(huge), Err(FrameError::TooLong { cseq: 6 }), "{huge}");
    }
    for wrong in ["-1", "", "0x10", "1 2", "ten", "+5"] {
        assert_eq!(announce(wrong), Err(FrameError::Malformed { cseq: 6 }), "{wrong}");
    }
    assert_eq!(announce("60000"), Ok(None));
    assert_eq!(
        Framer::new().push(&0x8001_0001_u32.to_be_bytes()),
        Err(FrameError::TooLong { cseq: 0 })
    );
    assert_eq!(Framer::new().push(&0x8001_0000_u32.to_be_bytes()), Ok(None));
    let mut framer = Framer::new();
    let mut endless = Ok(None);
    for _ in 0..200 {
        endless = framer.push(&[b'x'; 1000]);
        if endless.is_err() {
            break;
        }
    }
    assert_eq!(endless, Err(FrameError::TooLong { cseq: 0 }));
    assert_eq!(endless.unwrap_err().status().code(), 413);
}

#[test]
fn a_full_size_message_fits() {
    let key = SessionKey([1; 16]);
    let plaintext = vec![b'x'; limits::RTSP_MESSAGE_BYTES_MAX];
    let wire = seal(&key, 1, Direction::ClientToHost, &plaintext);
    assert_eq!(Framer::new().push(&wire), Ok(Some(Frame::Sealed(wire.clone()))));
    assert_eq!(open(&key, &wire, Direction::ClientToHost).unwrap().1, plaintext);
}

#[test]
fn malformed_requests_keep_their_cseq() {
    for (bytes, cseq) in [
        ("OPTIONS rtsp://h HTTP/1.1\r\nCSeq: 9\r\n\r\n", 9),
        ("OPTIONS RTSP/1.0\r\ncseq:7\r\n\r\n", 7),
        ("OPTIONS a b RTSP/1.0\r\nCSeq: 3\r\n\r\n", 3),
        ("OPTIONS a RTSP/1.0\r\nno colon\r\nCSeq: 5\r\n\r\n", 5),
        ("OPTIONS a RTSP/1.0\r\nCSeq: many\r\n\r\n", 0),
        ("OPTIONS a RTSP/1.0\nCSeq: 2\n\n", 2),
        ("", 0),
        ("OPTIONS a RTSP/1.0\r\nCSeq: 1\r\n\r\nbody without a length", 1),
        ("ANNOUNCE a RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 3\r\n\r\nab", 1),
        ("OPTIONS a RTSP/1.0\r\nCSeq: 1\r\nX: \0\r\n\r\n", 1),
    ] {
        assert_eq!(Request::parse(bytes.as_bytes()), Err(Malformed { cseq }), "{bytes:?}");
    }
}

#[test]
fn odd_but_seen_requests_are_read() {
    let request =
        Request::parse(b"DESCRIBE rtsp://:48010 RTSP/1.0\r\nCSeq: 2\r\nHost: \r\n\r\n").unwrap();
    assert_eq!((request.host(), request.target.as_str()), ("", "rtsp://:48010"));
    let request = Request::parse(b"TEARDOWN / RTSP/1.0\r\n\r\n").unwrap();
    assert_eq!((request.method, request.cseq), (Method::Other, 0));
    let request =
        Request::parse(b"PLAY / RTSP/1.0\r\nCSeq: 7\r\nSESSION:  ABC ;timeout = 90\r\n\r\n")
            .unwrap();
    assert_eq!(request.session(), Some("ABC"));
}

#[test]
fn streams_are_the_word_between_equals_and_slash() {
    assert_eq!(stream_of("streamid=audio"), Some(Flow::Audio));
    assert_eq!(stream_of("streamid=control/1/0"), Some(Flow::Control));
    for unknown in ["", "/", "streamid", "streamid=", "streamid=mic/0/0", "id=audio/0", "audio/0"] {
        assert_eq!(stream_of(unknown), None, "{unknown}");
    }
}

#[test]
fn every_status_is_readable_by_clients() {
    for status in [
        Status::Ok,
        Status::BadRequest,
        Status::Forbidden,
        Status::NotFound,
        Status::TooLong,
        Status::SessionNotFound,
        Status::WrongState,
        Status::Internal,
        Status::Unavailable,
    ] {
        let read = ClientResponse::parse(&Response::new(status, 3).write()).unwrap();
        assert_eq!(read.status, i32::from(status.code()));
        assert_eq!(read.header("CSeq"), Some("3"));
    }
    let payload = ping::payload_from(0xFEED);
    let response =
        Response::ok(5).session("A1").server_port(1).ping_payload(&payload).connect_data(0);
    let read = ClientResponse::parse(&response.write()).unwrap();
    assert_eq!(read.session(), Some("A1"));
    assert_eq!((read.server_port(), read.connect_data()), (Some(1), 0));
    assert_eq!(read.ping_payload(), Some(payload));
}

/// The rules of the library's parser, one by one.
#[test]
fn clients_refuse_or_misread_sloppy_responses() {
    let parse = |text: &str| ClientResponse::parse(text.as_bytes());
    assert_eq!(parse("RTSP/1.0 200\r\nCSeq: 1\r\n\r\n").map(|r| r.status), Err(Refused));
    assert_eq!(parse("RTSP/1.0 200 OK\r\n\r\n"), Err(Refused));
    assert_eq!(parse("RTSP/2.0 200 OK\r\nCSeq: 1\r\n\r\n"), Err(Refused));
    assert_eq!(parse("RTSP/1.0 200 OK\r\nCSeq:\r\n\r\n"), Err(Refused));
    assert_eq!(parse("RTSP/1.0 200 OK\nCSeq: 1\n\nbody"), Err(Refused));
    assert_eq!(parse("RTSP/1.0 200 OK\r\nSession:AB\r\n\r\n").unwrap().session(), Some("B"));
    assert_eq!(parse("RTSP/1.0 200 OK\r\nSession:  AB\r\n\r\n").unwrap().session(), Some(" AB"));
    assert_eq!(parse("RTSP/1.0 200 OK\r\nsession: AB\r\n\r\n").unwrap().session(), None);
    let twice = parse("RTSP/1.0 200 OK\r\nCSeq: 1\r\nA: 1\r\nA: 2\r\n\r\n").unwrap();
    assert_eq!(twice.header("A"), Some("2"));
    let nul = parse("RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\nab\0cd").unwrap();
    assert_eq!(nul.body.as_deref(), Some("ab"));
    let range = parse("RTSP/1.0 200 OK\r\nTransport: x;server_port=48000-48001\r\n\r\n").unwrap();
    assert_eq!(range.server_port(), Some(48000));
}

#[test]
fn numbers_have_the_base_that_c_detects() {
    for (text, number) in [
        ("305419896", 305_419_896),
        ("0x10", 16),
        ("010", 8),
        ("0", 0),
        ("", 0),
        ("x", 0),
        (" 7;", 7),
    ] {
        assert_eq!(number_of(text), number, "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Request::parse(&bytes);
        let _ = ClientResponse::parse(&bytes);
        let _ = Framer::new().push(&bytes);
        let _ = cseq_of(&bytes);
        prop_assert!(open(&SessionKey([0; 16]), &bytes, Direction::ClientToHost).is_err());
    }

    #[test]
    fn any_text(text in "(RTSP/1.0|OPTIONS|[A-Z]{0,3}) ?\\PC{0,20}( RTSP/1.0)?\r\n(\\PC{0,20}:? ?\\PC{0,9}\r?\n){0,4}\r\n\\PC*") {
        let _ = Request::parse(text.as_bytes());
        let _ = ClientResponse::parse(text.as_bytes());
        let _ = Framer::new().push(text.as_bytes());
        let _ = number_of(&text);
    }

    #[test]
    fn any_fragmentation(cuts in prop::collection::vec(0_usize..1700, 0..8), n in 0_usize..14) {
        let (request, _) = golden_exchanges().swap_remove(n);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(request.len())).collect();
        cuts.extend([0, request.len()]);
        cuts.sort_unstable();
        let mut framer = Framer::new();
        let mut frame = None;
        for pair in cuts.windows(2) {
            if let Some(complete) = framer.push(&request[pair[0]..pair[1]]).unwrap() {
                frame = Some(complete);
            }
        }
        prop_assert_eq!(frame, Some(Frame::Plain(request)));
    }

    #[test]
    fn sealing_and_opening(sequence: u32, plaintext in prop::collection::vec(any::<u8>(), 0..400)) {
        let key = SessionKey([3; 16]);
        let wire = seal(&key, sequence, Direction::HostToClient, &plaintext);
        prop_assert_eq!(open(&key, &wire, Direction::HostToClient), Ok((sequence, plaintext)));
        prop_assert_eq!(open(&key, &wire, Direction::ClientToHost), Err(OpenError::Forged));
    }
}
