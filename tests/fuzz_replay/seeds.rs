//! From the recorded vectors to inputs of each target.
use moonshard::config::{Config, Surroundings};
use moonshard::ipc::{
    AdminAnswer, AdminRequest, ClientId, EncoderReport, FrameNote, FromEncoder, FromSession,
    FrontBoot, FrontFigures, FrontOrder, FrontReport, SessionId, ToEncoder, ToSession, VERSION,
    ViewerGrant, ViewerId,
};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::Flow;
use moonshard::proto::{enet, hex};
use serde_json::Value;

/// Inputs of the target called `name`, from its vectors; none if the corpus has them.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "audio_receive" => audio("packet").chain([vec![1, 0, 0]]).collect(),
        "audio_send" => audio("opus").collect(),
        "config" => configurations(),
        "control_plain" => control("messages", "payload"),
        "control_replay" => vec![
            [1u32, 0, 3, 2, 2048, 1, 2050, u32::MAX, u32::MAX - 2047, 2047]
                .iter()
                .flat_map(|n| n.to_be_bytes())
                .collect(),
        ],
        "control_sealed" => [
            control("encrypted", "packet"),
            control("encrypted", "plaintext"),
            control("must_reject_v2_client_to_host", "packet"),
        ]
        .concat(),
        "enet" => datagrams(),
        "fec" => parity(),
        "http_head" => {
            targets().map(|t| format!("GET {t} HTTP/1.1\r\n\r\n").into_bytes()).collect()
        }
        "input" => hexadecimal(&load("input_packets")["packets"], "packet"),
        "ipc" => messages(),
        "launch" => launches(),
        "pairing" => pairings().map(|pairing| session(&pairing)).collect(),
        "ping" => {
            let golden = load("ping");
            let legacy = hex::decode(golden["legacy"].as_str().unwrap()).unwrap();
            [hexadecimal(&golden["examples"], "datagram"), vec![legacy]].concat()
        }
        "query" => targets().map(|t| t.split_once('?').unwrap().1.as_bytes().to_vec()).collect(),
        "rtsp_plain" => rtsp_texts(),
        "rtsp_sealed" => rtsp_wires(),
        "sdp" => {
            let body = |message: Vec<u8>| {
                let at = message.windows(4).position(|w| w == b"\r\n\r\n")?;
                Some(message[at + 4..].to_vec()).filter(|body| !body.is_empty())
            };
            rtsp_texts().into_iter().filter_map(body).chain(layouts()).collect()
        }
        "video_receive" => video().map(|(_, stream)| received(&stream)).collect(),
        "video_send" => video().flat_map(|(_, stream)| access_units(&stream)).collect(),
        "x509" => certificates(),
        _ => vec![],
    }
}

fn load(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

/// The bytes behind `key` of every element that has it.
fn hexadecimal(elements: &Value, key: &str) -> Vec<Vec<u8>> {
    let bytes = |element: &Value| hex::decode(element.get(key)?.as_str()?);
    list(elements).filter_map(bytes).collect()
}

fn number(value: &Value) -> u8 {
    u8::try_from(value.as_u64().unwrap()).unwrap()
}

/// The records that targets with several messages take.
fn records(messages: &[Vec<u8>]) -> Vec<u8> {
    let length = |message: &[u8]| u16::try_from(message.len()).unwrap().to_be_bytes();
    messages.iter().flat_map(|message| [&length(message)[..], message].concat()).collect()
}

fn audio(key: &str) -> impl Iterator<Item = Vec<u8>> {
    let golden = load("audio_packets");
    let cases: Vec<Vec<u8>> = list(&golden["cases"])
        .map(|case| {
            let settings = u8::from(case["encrypted"] == true);
            let packets = hexadecimal(&case["packets"], key);
            if key == "packet" {
                return [vec![settings], records(&packets)].concat();
            }
            let length = u16::try_from(packets[0].len()).unwrap().to_be_bytes();
            [&[settings, 0o31][..], &length, &packets.concat()].concat()
        })
        .collect();
    cases.into_iter()
}

fn control(list_name: &str, key: &str) -> Vec<Vec<u8>> {
    let golden = load("control_packets");
    if list_name != "messages" {
        return hexadecimal(&golden[list_name], key);
    }
    let message = |message: &Value| {
        let kind = message["type"].as_str()?.trim_start_matches("0x");
        let kind = u16::from_str_radix(kind, 16).ok()?.to_le_bytes();
        Some([&kind[..], &hex::decode(message[key].as_str()?)?].concat())
    };
    list(&golden[list_name]).filter_map(message).collect()
}

/// CONNECT as clients send it, VERIFY_CONNECT, data of every kind, acknowledgements and a ping.
fn datagrams() -> Vec<Vec<u8>> {
    let header = |peer: u16| [&(0x8000 | peer).to_be_bytes()[..], &[0x12, 0x34]].concat();
    let connect = [0x82, 0xff, 0, 1, 0, 0, 0xff, 0xff, 0, 0, 3, 0x84, 0, 0, 0x80, 0, 0, 0, 0, 48];
    let connect = [header(0xfff), connect.to_vec(), vec![7; 28]].concat();
    let verify = [header(9), vec![0x83, 0xff, 0, 1, 0, 0, 1, 1], vec![3; 36]].concat();
    let data = [
        &header(0x5a5)[..],
        &[0x86, 3, 0, 1, 0, 3, b'a', b'b', b'c'],
        &[7, 3, 0, 1, 0, 1, 0, 2, b'd', b'e'],
        &[0x49, 3, 0, 1, 0, 1, 0, 1, b'f'],
        &[8, 3, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, b'g', b'h'],
        &[1, 0, 0, 7, 0, 7, 0x12, 0x34],
        &[0x85, 0xff, 0, 1],
    ]
    .concat();
    vec![connect, verify, data, enet::unsequenced(0x5a5, 1, 1, b"farewell")]
}

fn parity() -> Vec<Vec<u8>> {
    let golden = load("rs_parity");
    list(&golden["cases"])
        .map(|case| {
            let of = |key: &str| number(&case[key]);
            let head = [of("data_shards"), of("parity_shards"), of("shard_len"), 0, 0, 0, 3, 1];
            let data = list(&case["data"]).map(|data| hex::decode(data.as_str().unwrap()).unwrap());
            [head.to_vec(), data.collect::<Vec<_>>().concat()].concat()
        })
        .collect()
}

fn pairings() -> impl Iterator<Item = Value> {
    let names = [
        "01-qt-sha256",
        "02-android-sha256",
        "03-x509v2-client-sha256",
        "04-embedded-sha256",
        "05-wrong-pin",
        "06-bad-client-signature",
        "07-client-key-mismatch",
        "08-legacy-sha1",
    ];
    names.into_iter().map(|name| load(&format!("pairing-{name}")))
}

/// Of the first pairings only: the others differ in what the bytes mean.
fn targets() -> impl Iterator<Item = String> {
    pairings().take(2).flat_map(|pairing| {
        let phases = list(&pairing["phases"]);
        phases.map(|phase| phase["request_target"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    })
}

/// The queries of all phases in order, with the user's PIN behind the first.
fn session(pairing: &Value) -> Vec<u8> {
    let phases = list(&pairing["phases"]);
    let query = |phase: &Value| {
        phase["request_target"].as_str().unwrap().split_once('?').unwrap().1.to_owned()
    };
    let mut lines: Vec<String> = phases.map(query).collect();
    lines.insert(1, format!("pin={}", pairing["pin_entered_by_user_on_host"].as_str().unwrap()));
    lines.join("\n").into_bytes()
}

fn certificates() -> Vec<Vec<u8>> {
    let certificate = |pairing: Value| {
        let text = |key: &str| pairing["client"][key].as_str().unwrap().to_owned();
        let pem = text("cert_pem").into_bytes();
        [hex::decode(&text("cert_der")).unwrap(), hex::encode(&pem).into_bytes(), pem]
    };
    pairings().flat_map(certificate).collect()
}

fn launches() -> Vec<Vec<u8>> {
    let golden = load("launch-params");
    let modes: Vec<&str> = list(&golden["mode"]).filter_map(|m| m["mode"].as_str()).collect();
    let infos: Vec<&Value> = list(&golden["surround_audio_info"]).map(|i| &i["value"]).collect();
    let ids = list(&golden["entries"]).map(|entry| &entry["rikeyid"]).enumerate();
    let query = |(n, id): (usize, &Value)| {
        let (mode, info) = (modes[n % modes.len()], infos[n % infos.len()]);
        format!(
            "uniqueid=0123456789ABCDEF&appid=1&mode={mode}&additionalStates=1&sops=1&rikey=\
             00112233445566778899aabbccddeeff&rikeyid={id}&localAudioPlayMode=0&surroundAudioInfo=\
             {info}&remoteControllersBitmap=3&gcmap=3&gcpersist=1&corever=1&hdrMode=1\
             &continuousAudio=1&surroundParams=642012453"
        )
    };
    ids.map(query).map(String::into_bytes).collect()
}

fn layouts() -> impl Iterator<Item = Vec<u8>> {
    let golden = load("opus-surround-params");
    let digits = |entry: &Value| entry["surround_params"].as_str().unwrap().as_bytes().to_vec();
    list(&golden["entries"]).map(digits).collect::<Vec<_>>().into_iter()
}

/// Requests and responses, plain and from inside their envelopes.
fn rtsp_texts() -> Vec<Vec<u8>> {
    let plain = load("rtsp-plain-remote-51-av1");
    let sealed = load("rtsp-encrypted-local-stereo-hevc");
    let text = |value: &Value| value.as_str().unwrap().as_bytes().to_vec();
    let plain = list(&plain["messages"]).flat_map(|m| [text(&m["request"]), text(&m["response"])]);
    let sides = list(&sealed["exchanges"]).flat_map(|e| [&e["request"], &e["response"]]);
    plain.chain(sides.map(|side| text(&side["plaintext"]))).collect()
}

fn rtsp_wires() -> Vec<Vec<u8>> {
    let sealed = load("rtsp-encrypted-local-stereo-hevc");
    let requests = list(&sealed["exchanges"]).map(|exchange| exchange["request"].clone());
    let requests = Value::Array(requests.collect());
    let negative = load("rtsp-encrypted-negative");
    [hexadecimal(&requests, "wire"), hexadecimal(&negative["cases"], "wire")].concat()
}

fn video() -> impl Iterator<Item = (String, Value)> {
    ["video_frames", "video_frames_multiblock"].into_iter().flat_map(|file| {
        let golden = load(file);
        let streams = list(&golden["streams"]).cloned();
        streams.map(|s| (s["name"].to_string(), s)).collect::<Vec<_>>()
    })
}

/// The bits by which the targets choose the packet size.
fn size_bits(stream: &Value, sizes: [u64; 4]) -> u8 {
    let size = stream["packet_size"].as_u64().unwrap();
    sizes.iter().position(|known| *known == size).map_or(0, |at| at as u8)
}

fn received(stream: &Value) -> Vec<u8> {
    let codec = match stream["codec"].as_str().unwrap() {
        "h264" => 0,
        "hevc" => 1,
        _ => 2,
    };
    let encrypted = u8::from(stream["encrypted"] == true);
    let settings = size_bits(stream, [64, 128, 1024, 1392]) | codec << 2 | encrypted << 4;
    let frames = list(&stream["frames"]);
    let packets: Vec<_> =
        frames.flat_map(|frame| hexadecimal(&frame["packets"], "packet")).collect();
    [vec![settings], records(&packets)].concat()
}

fn access_units(stream: &Value) -> Vec<Vec<u8>> {
    let fec = [number(&stream["fec_percentage"]), number(&stream["min_required_fec_packets"])];
    let size = size_bits(stream, [48, 64, 208, 1392]);
    let units = hexadecimal(&stream["frames"], "payload").into_iter().zip(0u8..);
    units.map(|(unit, n)| [&[size, fec[0], fec[1], n, 0xA5, n, 3, 1][..], &unit].concat()).collect()
}

fn configurations() -> Vec<Vec<u8>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/moonshard.toml");
    let documented = std::fs::read_to_string(path).unwrap();
    let printed = configuration().to_toml().unwrap();
    vec![documented.into_bytes(), printed.into_bytes()]
}

fn configuration() -> Config {
    let around = Surroundings {
        root: true,
        host_name: "gamebox".into(),
        cores: vec![0, 1],
        ..Surroundings::default()
    };
    Config::parse("external_ip = \"203.0.113.7\"\nfec_percent = 30", &around).unwrap()
}

/// A message of every link.
fn messages() -> Vec<Vec<u8>> {
    let (session, viewer) = (SessionId(0x0123_4567_89AB_CDEF), ViewerId(7));
    let local = "192.0.2.1:47998".parse().unwrap();
    let peer = "[2001:db8::1]:50000".parse().unwrap();
    let grant = ViewerGrant {
        viewer,
        key: SessionKey([9; 16]),
        rikeyid: -5,
        ping_payload: "0123456789ABCDEF".into(),
        connect_data: 0xC0FF_EE01,
        peer_id: 0x5A5,
    };
    let boot = FrontBoot {
        version: VERSION,
        config: configuration(),
        shards: vec![Some(0), None],
        door_ipv6: true,
        encoders: EncoderReport::default(),
        succeeds: true,
    };
    let figures = [("fps".to_owned(), 59.94), ("frames".to_owned(), 1e9)].into();
    let note = FrameNote { slot: 3, seq: 77, captured_ns: 1 << 40, repeated: true };
    let status = "exit 0".to_owned();
    let id = ClientId([0xAB; 32]).to_string();
    vec![
        json(&FrontOrder::SessionExited { session, status, last_words: "\u{1f3ae}\n".into() }),
        json(&FrontOrder::Admin { id: 1, request: AdminRequest::RemoveClient { client: id } }),
        json(&FrontReport::Hello { version: VERSION, pid: 4711, program: "0.1.0".into() }),
        json(&ToSession::Grant(grant)),
        json(&ToSession::Socket { viewer, flow: Flow::Control, local, peer, first: vec![0, 255] }),
        json(&FromSession::Figures { figures }),
        json(&FromSession::ViewerConnected { viewer, local, peer, last_will: vec![1, 2] }),
        json(&ToEncoder::Bitrate { kbps: 20_000 }),
        json(&FromEncoder::Failed { reason: "no GPU".into() }),
        json(&AdminAnswer::Done("removed".into())),
        json(&FrontFigures { written_ns: 5, ..FrontFigures::default() }),
        json(&boot),
        note.to_bytes().to_vec(),
    ]
}

fn json<T: serde::Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).unwrap()
}
