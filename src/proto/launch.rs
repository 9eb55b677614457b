//! `/launch`, `/resume` and `/cancel`: what a client asks for, and the answers.
//!
//! It checks values one by one; whether the app exists, something runs already or the key was used
//! before is decided elsewhere. Unknown parameters are ignored: forks send many.
//! Source: Sunshine src/nvhttp.cpp, moonlight-qt app/backend/nvhttp.cpp,
//! moonlight-common-c src/ConnectionTester.c and src/Misc.c (LiGetLaunchUrlQueryParameters).
use std::net::IpAddr;
use std::str::FromStr;

use super::hex;
use super::http::{Query, QueryDefect, Response};
use super::secret::SessionKey;
use super::stream::Mode;
use super::surround::Layout;
use super::xml::Document;
use crate::limits::{HEIGHT_MAX, WIDTH_MAX};

/// A request that cannot be carried out as sent. Answer with [`LaunchError::response`]; nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The query as a whole cannot be decoded.
    #[error("{verb}: {defect}; update the client", verb = .verb.path())]
    Query { verb: Verb, defect: QueryDefect },
    /// A required parameter is not there.
    #[error("{verb}: {name} is missing; send {wanted}", verb = .verb.path())]
    Missing { verb: Verb, name: &'static str, wanted: &'static str },
    /// A parameter is there and says nothing that can be used.
    #[error("{verb}: {name} is not valid; send {wanted}", verb = .verb.path())]
    Invalid { verb: Verb, name: &'static str, wanted: &'static str },
    /// A parameter is there twice with different values.
    #[error("{verb}: {name} is there more than once; send it once", verb = .verb.path())]
    Repeated { verb: Verb, name: &'static str },
}

impl LaunchError {
    /// `status_code` 400 with the message, and the element by which clients see a failure.
    pub fn response(self) -> Response {
        let (Self::Query { verb, .. }
        | Self::Missing { verb, .. }
        | Self::Invalid { verb, .. }
        | Self::Repeated { verb, .. }) = self;
        verb.refusal(400, &self.to_string())
    }
}

/// Which of the three it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Launch,
    Resume,
    Cancel,
}

impl Verb {
    const fn path(self) -> &'static str {
        match self {
            Self::Launch => "/launch",
            Self::Resume => "/resume",
            Self::Cancel => "/cancel",
        }
    }

    /// The element that is 1 on success and 0 on failure.
    const fn element(self) -> &'static str {
        match self {
            Self::Launch => "gamesession",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }

    /// A failure: `code` is not 200, the message says what to do.
    pub fn refusal(self, code: u32, message: &str) -> Response {
        Document::new(code)
            .attribute("status_message", message)
            .element(self.element(), "0")
            .response()
    }
}

/// Success of `/launch` or `/resume`. Answer only when RTSP takes connections for this session.
pub fn started(verb: Verb, session_url: &str) -> Response {
    Document::new(200).element("sessionUrl0", session_url).element(verb.element(), "1").response()
}

/// Success of `/cancel`, also if nothing ran.
pub fn cancelled() -> Response {
    Document::new(200).element(Verb::Cancel.element(), "1").response()
}

/// The `sessionUrl0`: our address as this client reached it, and a port, which clients look for after
/// the last colon. The scheme alone decides whether RTSP is encrypted.
pub fn session_url(encrypted: bool, local: IpAddr, rtsp_port: u16) -> String {
    let scheme = if encrypted { "rtspenc" } else { "rtsp" };
    match local.to_canonical() {
        IpAddr::V4(address) => format!("{scheme}://{address}:{rtsp_port}"),
        IpAddr::V6(address) => format!("{scheme}://[{address}]:{rtsp_port}"),
    }
}

/// A valid `/launch` or `/resume`. What a resume leaves out stays as it was at the launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRequest {
    /// App to start. With a resume it has no meaning and can be missing.
    pub appid: Option<i32>,
    /// Wanted display mode; ANNOUNCE brings the binding one. A rate of 0 is legal.
    pub mode: Option<Mode>,
    pub rikey: SessionKey,
    /// Base of the legacy IV and of the audio IV.
    pub rikeyid: i32,
    /// The app's sound is also to be heard at the host. Always there with a launch.
    pub local_audio: Option<bool>,
    pub surround: Surround,
    /// The client can do encrypted RTSP if this is 1 or more.
    pub corever: u32,
    /// The host may change its display mode.
    pub sops: bool,
    /// The client can show 10 bits and the user wants it.
    pub hdr: bool,
    /// Bit n: controller n is there from the start.
    pub gamepads: u32,
    /// Virtual gamepads stay when the client goes.
    pub keep_gamepads: bool,
    /// Send audio during silence too.
    pub continuous_audio: bool,
    /// A layout of the client's own, from forks. An invalid one counts as none.
    pub surround_params: Option<Layout>,
}

/// Wanted speakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surround {
    /// 2, 6 or 8.
    pub channels: u8,
    /// As many bits as channels, in the order of WAVEFORMATEXTENSIBLE.
    pub mask: u16,
}

impl Surround {
    pub const STEREO: Self = Self { channels: 2, mask: 3 };

    /// From `surroundAudioInfo`: mask in the high, channels in the low 16 bits.
    pub fn from_info(info: u32) -> Option<Self> {
        let (mask, count) = ((info >> 16) as u16, info & 0xffff);
        let channels = u8::try_from(count).ok().filter(|c| [2, 6, 8].contains(c))?;
        (mask.count_ones() == count).then_some(Self { channels, mask })
    }
}

/// First 16-byte IV of the encryption before control v2: the id, most significant byte first, zeros.
pub fn legacy_iv(rikeyid: i32) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..4].copy_from_slice(&rikeyid.to_be_bytes());
    iv
}

impl LaunchRequest {
    /// From the query of `/launch` or `/resume`.
    pub fn parse(verb: Verb, query: &Query) -> Result<Self, LaunchError> {
        if let Some(defect) = query.defect() {
            return Err(LaunchError::Query { verb, defect });
        }
        let read = Parameters { verb, query };
        let launch = verb == Verb::Launch;
        let flag = "0 or 1";
        let appid = read.parsed("appid", "a decimal number", i32::from_str)?;
        let local_audio = read.optional("localAudioPlayMode", flag, flag_value)?;
        Ok(Self {
            appid: if launch {
                Some(appid.ok_or(read.missing("appid", "the number of an app"))?)
            } else {
                appid
            },
            mode: read.optional("mode", "WIDTHxHEIGHTxRATE up to 7680x4320", mode)?,
            rikey: read.required("rikey", "32 hexadecimal digits", |text| {
                hex::decode_array(text).map(SessionKey)
            })?,
            rikeyid: read.required("rikeyid", "a 32-bit decimal number", key_id)?,
            local_audio: if launch {
                Some(local_audio.ok_or(read.missing("localAudioPlayMode", flag))?)
            } else {
                local_audio
            },
            surround: read
                .optional("surroundAudioInfo", "196610, 4128774 or 104792072", |text| {
                    text.parse().ok().and_then(Surround::from_info)
                })?
                .unwrap_or(Surround::STEREO),
            corever: read.parsed("corever", "a decimal number", u32::from_str)?.unwrap_or(0),
            sops: read.optional("sops", flag, flag_value)?.unwrap_or(false),
            hdr: read.optional("hdrMode", flag, flag_value)?.unwrap_or(false),
            gamepads: read.gamepads()?,
            keep_gamepads: read.optional("gcpersist", flag, flag_value)?.unwrap_or(false),
            continuous_audio: read.optional("continuousAudio", flag, flag_value)?.unwrap_or(false),
            surround_params: query.get("surroundParams").and_then(Layout::parse_custom),
        })
    }
}

struct Parameters<'a> {
    verb: Verb,
    query: &'a Query,
}

impl Parameters<'_> {
    const fn missing(&self, name: &'static str, wanted: &'static str) -> LaunchError {
        LaunchError::Missing { verb: self.verb, name, wanted }
    }

    fn optional<T>(
        &self,
        name: &'static str,
        wanted: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, LaunchError> {
        if self.query.repeated(name) {
            return Err(LaunchError::Repeated { verb: self.verb, name });
        }
        let Some(text) = self.query.get(name) else { return Ok(None) };
        read(text).map(Some).ok_or(LaunchError::Invalid { verb: self.verb, name, wanted })
    }

    fn parsed<T, E>(
        &self,
        name: &'static str,
        wanted: &'static str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, LaunchError> {
        self.optional(name, wanted, |text| read(text).ok())
    }

    fn required<T>(
        &self,
        name: &'static str,
        wanted: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, LaunchError> {
        self.optional(name, wanted, read)?.ok_or(self.missing(name, wanted))
    }

    /// Two names for the same mask; clients send both.
    fn gamepads(&self) -> Result<u32, LaunchError> {
        let wanted = "a decimal bit mask";
        let new = self.parsed("gcmap", wanted, u32::from_str)?;
        let old = self.parsed("remoteControllersBitmap", wanted, u32::from_str)?;
        Ok(new.or(old).unwrap_or(0))
    }
}

fn flag_value(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// Signed, or the same bits in unsigned notation.
fn key_id(text: &str) -> Option<i32> {
    let value: i64 = text.parse().ok()?;
    let unsigned = u32::try_from(value).map(u32::cast_signed);
    i32::try_from(value).or(unsigned).ok()
}

fn mode(text: &str) -> Option<Mode> {
    let mut parts = text.split('x');
    let (width, height, rate) = (parts.next()?, parts.next()?, parts.next()?);
    let width = digits(width)?.parse().ok().filter(|w| (1..=WIDTH_MAX).contains(w))?;
    let height = digits(height)?.parse().ok().filter(|h| (1..=HEIGHT_MAX).contains(h))?;
    parts.next().is_none().then_some(())?;
    Some(Mode { width, height, millihertz: millihertz(rate)? })
}

/// A rate in Hz, whole or with a fraction; what lies beyond the third decimal is cut off, what does not
/// fit is as good as infinite.
fn millihertz(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole: u32 = digits(whole)?.parse().unwrap_or(u32::MAX);
    let places = digits(fraction)?.bytes().chain(*b"000").take(3);
    let thousandths = places.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(whole.saturating_mul(1000).saturating_add(thousandths))
}

/// The text if it is one or more ASCII digits and nothing else.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const LAUNCH: &str = "uniqueid=0123456789ABCDEF&uuid=00&appid=1&mode=1920x1080x60&\
        additionalStates=1&sops=1&rikey=00112233445566778899aabbCCDDEEFF&rikeyid=-559038737&\
        hdrMode=1&clientHdrCapVersion=0&clientHdrCapMetaDataId=NV_STATIC_METADATA_TYPE_1&\
        localAudioPlayMode=0&surroundAudioInfo=4128774&remoteControllersBitmap=3&gcmap=3&\
        gcpersist=1&corever=1&devicenickname=%F0%9F%8E%AE&virtualDisplay=1";

    fn vector() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/launch-params.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn launch(query: &str) -> Result<LaunchRequest, LaunchError> {
        LaunchRequest::parse(Verb::Launch, &Query::parse(query))
    }

    /// The full launch with one parameter's value replaced, or left out.
    fn with(name: &str, value: Option<&str>) -> Result<LaunchRequest, LaunchError> {
        let own = format!("{name}=");
        let others = LAUNCH.split('&').filter(|pair| !pair.starts_with(&own));
        let added = value.map(|value| format!("{own}{value}"));
        launch(&others.chain(added.as_deref()).collect::<Vec<_>>().join("&"))
    }

    fn body(response: Response) -> String {
        assert_eq!(response.status, 200);
        String::from_utf8(response.body).unwrap()
    }

    #[test]
    fn a_whole_launch() {
        assert_eq!(
            launch(LAUNCH).unwrap(),
            LaunchRequest {
                appid: Some(1),
                mode: Some(Mode { width: 1920, height: 1080, millihertz: 60_000 }),
                rikey: SessionKey(hex::decode_array("00112233445566778899AABBCCDDEEFF").unwrap()),
                rikeyid: -559_038_737,
                local_audio: Some(false),
                surround: Surround { channels: 6, mask: 0x3f },
                corever: 1,
                sops: true,
                hdr: true,
                gamepads: 3,
                keep_gamepads: true,
                continuous_audio: false,
                surround_params: None,
            }
        );
    }

    #[test]
    fn a_bare_resume() {
        let query = Query::parse("rikey=00112233445566778899aabbccddeeff&rikeyid=7");
        let resume = LaunchRequest::parse(Verb::Resume, &query).unwrap();
        assert_eq!((resume.appid, resume.mode, resume.local_audio), (None, None, None));
        assert_eq!((resume.rikeyid, resume.surround, resume.corever), (7, Surround::STEREO, 0));
    }

    #[test]
    fn key_ids_of_the_vector() {
        let vector = vector();
        let entries = vector["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 7);
        for entry in entries {
            let signed = entry["rikeyid"].as_str().unwrap();
            let unsigned = entry["av_ri_key_id_u32"].as_u64().unwrap();
            let id = with("rikeyid", Some(signed)).unwrap().rikeyid;
            assert_eq!(u64::from(id.cast_unsigned()), unsigned);
            assert_eq!(with("rikeyid", Some(&unsigned.to_string())).unwrap().rikeyid, id);
            let iv = hex::encode(&legacy_iv(id)).to_lowercase();
            assert_eq!(iv, entry["iv"].as_str().unwrap());
        }
    }

    #[test]
    fn surround_and_modes_of_the_vector() {
        let vector = vector();
        for entry in vector["surround_audio_info"].as_array().unwrap() {
            let value = entry["value"].to_string();
            let surround = with("surroundAudioInfo", Some(&value)).unwrap().surround;
            assert_eq!(Value::from(surround.channels), entry["channels"]);
            assert_eq!(format!("{:#x}", surround.mask), entry["mask"].as_str().unwrap());
        }
        for entry in vector["mode"].as_array().unwrap() {
            let mode = with("mode", entry["mode"].as_str()).unwrap().mode.unwrap();
            assert_eq!(Value::from(mode.width), entry["w"]);
            assert_eq!(Value::from(mode.height), entry["h"]);
            assert_eq!(Value::from(mode.millihertz / 1000), entry["fps"]);
        }
    }

    #[test]
    fn modes() {
        for (text, expected) in [
            ("1x1x0", (1, 1, 0)),
            ("7680x4320x240", (7680, 4320, 240_000)),
            ("1280x720x59.94", (1280, 720, 59_940)),
            ("1280x720x59.9400599", (1280, 720, 59_940)),
            ("1280x720x119.5", (1280, 720, 119_500)),
            ("1280x720x99999999999", (1280, 720, u32::MAX)),
        ] {
            let (width, height, millihertz) = expected;
            assert_eq!(mode(text), Some(Mode { width, height, millihertz }), "{text}");
        }
        for bad in [
            "",
            "x",
            "1920x1080",
            "0x1080x60",
            "1920x0x60",
            "7681x1x60",
            "1x4321x60",
            "65537x1x60",
            "1920x1080x",
            "1920x1080x-1",
            "1920x1080x60x1",
            "+1920x1080x60",
            "1920X1080X60",
            "1920x1080xNaN",
            "1920x1080x6e1",
            "1920x1080x60.",
            "1920x1080x.5",
            "1920x1080x1.2.3",
            "1920 x1080x60",
            "99999999999999999999x1x1",
            "1920x1080x60\u{0}",
        ] {
            assert_eq!(mode(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for name in ["appid", "rikey", "rikeyid", "localAudioPlayMode"] {
            let error = with(name, None).unwrap_err();
            assert!(matches!(error, LaunchError::Missing { name: n, .. } if n == name));
            let text = body(error.response());
            assert!(text.contains("status_code=\"400\"") && text.contains("<gamesession>0<"));
            assert!(text.contains(&format!("/launch: {name} is missing; send ")));
        }
        for (name, bad) in [
            ("appid", "1.5"),
            ("appid", "2147483648"),
            ("rikey", ""),
            ("rikey", "00112233445566778899aabbccddeef"),
            ("rikey", "00112233445566778899aabbccddeeff00"),
            ("rikey", "00112233445566778899aabbccddeefg"),
            ("rikeyid", "4294967296"),
            ("rikeyid", "-2147483649"),
            ("rikeyid", "0x10"),
            ("localAudioPlayMode", "2"),
            ("mode", "0x0x0"),
            ("surroundAudioInfo", "0"),
            ("surroundAudioInfo", "196611"),
            ("surroundAudioInfo", "65538"),
            ("surroundAudioInfo", "4294967296"),
            ("corever", "-1"),
            ("sops", "yes"),
            ("gcmap", "-1"),
        ] {
            let error = with(name, Some(bad)).unwrap_err();
            assert!(matches!(error, LaunchError::Invalid { name: n, .. } if n == name), "{name}");
            assert!(bad.len() < 4 || !error.to_string().contains(bad), "values are not repeated");
        }
        let twice = launch(&format!("{LAUNCH}&appid=2")).unwrap_err();
        assert_eq!(twice, LaunchError::Repeated { verb: Verb::Launch, name: "appid" });
        assert!(launch(&format!("{LAUNCH}&appid=1")).is_ok());
        let defect = launch(&format!("{LAUNCH}&x=%ff")).unwrap_err();
        assert_eq!(defect, LaunchError::Query { verb: Verb::Launch, defect: QueryDefect::Utf8 });
        let resume = LaunchRequest::parse(Verb::Resume, &Query::parse("")).unwrap_err();
        assert!(body(resume.response()).contains("<resume>0</resume>"));
    }

    #[test]
    fn layouts_of_forks() {
        for good in ["642012453", "660012345", "85301245673", "88001234567"] {
            let params = with("surroundParams", Some(good)).unwrap().surround_params.unwrap();
            assert_eq!(params.digits(), good);
        }
        for bad in [
            "",
            "21101",
            "64201245",
            "6420124531",
            "642012456",
            "652012453",
            "624012345",
            "64201245x",
            "642012453642012453",
        ] {
            assert_eq!(with("surroundParams", Some(bad)).unwrap().surround_params, None, "{bad}");
        }
    }

    #[test]
    fn answers() {
        let url = session_url(true, "::ffff:192.168.1.10".parse().unwrap(), 48010);
        assert_eq!(url, "rtspenc://192.168.1.10:48010");
        assert_eq!(session_url(false, "fd00::1".parse().unwrap(), 1), "rtsp://[fd00::1]:1");
        assert!(body(started(Verb::Launch, &url)).ends_with(
            "<root status_code=\"200\"><sessionUrl0>rtspenc://192.168.1.10:48010</sessionUrl0>\
             <gamesession>1</gamesession></root>"
        ));
        assert!(
            body(started(Verb::Resume, &url)).ends_with("</sessionUrl0><resume>1</resume></root>")
        );
        assert!(body(cancelled()).ends_with("<root status_code=\"200\"><cancel>1</cancel></root>"));
    }

    #[test]
    fn the_key_is_not_printed() {
        assert!(!format!("{:?}", launch(LAUNCH).unwrap()).to_lowercase().contains("ccdd"));
    }

    proptest! {
        #[test]
        fn no_query_panics(
            query in "((appid|mode|rikey|rikeyid|localAudioPlayMode|surroundAudioInfo|surroundParams|gcmap)=[-0-9a-fx.%]{0,32}&){0,8}.{0,20}"
        ) {
            _ = launch(&query);
            _ = LaunchRequest::parse(Verb::Resume, &Query::parse(&query));
        }

        #[test]
        fn any_mode_within_bounds_is_read(
            width in 1..=WIDTH_MAX, height in 1..=HEIGHT_MAX, hz in 0u32..4_000_000
        ) {
            let expected = Some(Mode { width, height, millihertz: hz * 1000 });
            prop_assert_eq!(mode(&format!("{width}x{height}x{hz}")), expected);
        }

        #[test]
        fn any_key_id_is_read_in_both_notations(id: i32) {
            prop_assert_eq!(key_id(&id.to_string()), Some(id));
            prop_assert_eq!(key_id(&id.cast_unsigned().to_string()), Some(id));
        }
    }
}
