//! What the host says of itself: `/serverinfo`, `/applist`, and the answers that refuse.
//!
//! It formats; who asks, what runs and what can be encoded is passed in. The codec bits here must agree
//! with the RTSP DESCRIBE answer. Source: Sunshine src/nvhttp.cpp, moonlight-common-c src/Limelight.h,
//! moonlight-qt app/backend/nvcomputer.cpp, moonlight-android NvHTTP.java.
use std::net::{IpAddr, Ipv4Addr};

use super::http::Response;
use super::stream::CodecSupport;
use super::xml::Document;

/// Protocol generation. The negative last part is what makes clients speak Sunshine's extensions.
pub const APP_VERSION: &str = "7.1.431.-1";
/// Android lowers 4K to 1080p without it.
pub const GFE_VERSION: &str = "3.23.0.74";
/// Sent when HEVC can be encoded; a missing or zero value makes desktop clients drop HEVC.
const MAX_LUMA_PIXELS_HEVC: &str = "1869449984";

/// Bits of `ServerCodecModeSupport`. Source: moonlight-common-c src/Limelight.h.
pub mod codec_bits {
    pub const H264: u32 = 0x0000_0001;
    pub const HEVC_MAIN: u32 = 0x0000_0100;
    pub const HEVC_MAIN10: u32 = 0x0000_0200;
    pub const AV1_MAIN8: u32 = 0x0001_0000;
    pub const AV1_MAIN10: u32 = 0x0002_0000;
    pub const H264_HIGH8_444: u32 = 0x0004_0000;
    pub const HEVC_REXT8_444: u32 = 0x0008_0000;
    pub const HEVC_REXT10_444: u32 = 0x0010_0000;
    pub const AV1_HIGH8_444: u32 = 0x0020_0000;
    pub const AV1_HIGH10_444: u32 = 0x0040_0000;

    /// Every variant with 10 bits per sample.
    pub const TEN_BIT: u32 = HEVC_MAIN10 | HEVC_REXT10_444 | AV1_MAIN10 | AV1_HIGH10_444;
    /// Every variant with 4:4:4 chroma.
    pub const YUV444: u32 =
        H264_HIGH8_444 | HEVC_REXT8_444 | HEVC_REXT10_444 | AV1_HIGH8_444 | AV1_HIGH10_444;
}

/// The `ServerCodecModeSupport` mask. A variant counts only if its codec can be encoded at all.
/// 0 (nothing can be encoded) makes clients refuse to connect.
pub const fn codec_mode_support(codecs: &CodecSupport) -> u32 {
    use codec_bits::*;
    let mut mask = 0;
    if codecs.h264 {
        mask |= H264 | codecs.extra_bits & H264_HIGH8_444;
    }
    if codecs.hevc {
        mask |= HEVC_MAIN | codecs.extra_bits & (HEVC_MAIN10 | HEVC_REXT8_444 | HEVC_REXT10_444);
    }
    if codecs.av1 {
        mask |= AV1_MAIN8 | codecs.extra_bits & (AV1_MAIN10 | AV1_HIGH8_444 | AV1_HIGH10_444);
    }
    mask
}

/// One answer to `/serverinfo`.
///
/// Over plain HTTP, and to a certificate that is not paired, nothing about sessions or hardware is
/// told: see [`ServerInfo::public`].
#[derive(Clone, Debug)]
pub struct ServerInfo<'a> {
    /// Name in the client's list; an empty one is shown as "UNKNOWN".
    pub hostname: &'a str,
    /// The host's UUID: the key of this host in every client's database, the same for ever.
    pub uniqueid: &'a str,
    pub https_port: u16,
    /// The HTTP port as reached from outside; the HTTP port itself unless mapped.
    pub external_port: u16,
    /// Only if configured.
    pub external_ip: Option<Ipv4Addr>,
    /// Our address of this connection.
    pub local_ip: IpAddr,
    /// Of the local interface; told to paired clients only.
    pub mac: Option<[u8; 6]>,
    pub codecs: &'a CodecSupport,
    /// The request came over TLS with a paired certificate.
    pub paired: bool,
    /// App of the asking client's own session, 0 for none.
    pub current_app: i32,
}

impl ServerInfo<'_> {
    /// The same, without what only paired clients may know.
    pub fn public(self) -> Self {
        Self { mac: None, paired: false, current_app: 0, ..self }
    }

    /// The XML, elements in Sunshine's order.
    pub fn response(&self) -> Response {
        let max_luma = if self.codecs.hevc { MAX_LUMA_PIXELS_HEVC } else { "0" };
        let [a, b, c, d, e, f] = self.mac.unwrap_or_default();
        let state = if self.current_app == 0 { "FREE" } else { "BUSY" };
        let mut document = Document::new(200)
            .element("hostname", self.hostname)
            .element("appversion", APP_VERSION)
            .element("GfeVersion", GFE_VERSION)
            .element("uniqueid", self.uniqueid)
            .element("HttpsPort", &self.https_port.to_string())
            .element("ExternalPort", &self.external_port.to_string());
        if let Some(address) = self.external_ip {
            document = document.element("ExternalIP", &address.to_string());
        }
        document
            .element("MaxLumaPixelsHEVC", max_luma)
            .element("mac", &format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
            .element("LocalIP", &lan_address(self.local_ip).to_string())
            .element("ServerCodecModeSupport", &codec_mode_support(self.codecs).to_string())
            .element("PairStatus", if self.paired { "1" } else { "0" })
            .element("currentgame", &self.current_app.to_string())
            .element("state", &format!("SUNSHINE_SERVER_{state}"))
            .response()
    }
}

/// The `LocalIP` of a connection: an IPv4 address as it is or unmapped. For IPv6 it is 127.0.0.1, which
/// clients ignore; the IPv6 address would overwrite the LAN address that they have stored.
pub fn lan_address(local: IpAddr) -> Ipv4Addr {
    match local.to_canonical() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
    }
}

/// One entry of `/applist`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct App<'a> {
    /// Greater than 0, unique, the same for ever: box art and shortcuts hang on it.
    pub id: i32,
    /// Not empty.
    pub title: &'a str,
    /// The host can stream HDR.
    pub hdr: bool,
}

/// The answer to `/applist`. Clients take an empty list for an error.
pub fn app_list<'a>(apps: impl IntoIterator<Item = App<'a>>) -> Response {
    let list = apps.into_iter().fold(Document::new(200), |list, app| {
        list.group("App", |entry| {
            entry
                .element("IsHdrSupported", if app.hdr { "1" } else { "0" })
                .element("AppTitle", app.title)
                .element("ID", &app.id.to_string())
        })
    });
    list.response()
}

/// An outcome without content: `status_code` and a message that the client shows as it is.
pub fn status(code: u32, message: &str) -> Response {
    Document::new(code).attribute("status_message", message).response()
}

/// A path that is not served here.
pub fn not_found() -> Response {
    status(404, "This host does not know the requested path")
}

/// The answer to any path over TLS without a paired certificate. Clients then look over HTTP and show
/// the host as not paired. `path` is that of the request.
pub fn unauthorized(path: &str) -> Response {
    Document::new(401)
        .attribute("query", path)
        .attribute("status_message", "This device is not paired with the host; pair it first")
        .response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(response: Response) -> String {
        assert_eq!((response.status, response.content_type), (200, "application/xml"));
        String::from_utf8(response.body).unwrap()
    }

    fn everything() -> CodecSupport {
        CodecSupport { h264: true, hevc: true, av1: true, extra_bits: u32::MAX }
    }

    fn example(codecs: &CodecSupport) -> ServerInfo<'_> {
        ServerInfo {
            hostname: "den",
            uniqueid: "7C0F1B1E-5B0E-4E53-9A40-0D1B5B4B2E11",
            https_port: 47984,
            external_port: 47989,
            external_ip: None,
            local_ip: "192.168.1.10".parse().unwrap(),
            mac: Some([2, 0, 0, 0xab, 0xcd, 0xef]),
            codecs,
            paired: true,
            current_app: 7,
        }
    }

    #[test]
    fn to_the_unpaired_it_is_the_documented_example() {
        let extra_bits = codec_bits::HEVC_MAIN10 | codec_bits::AV1_MAIN10;
        let codecs = CodecSupport { extra_bits, ..everything() };
        assert_eq!(
            body(example(&codecs).public().response()),
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<root status_code=\"200\">\
             <hostname>den</hostname><appversion>7.1.431.-1</appversion>\
             <GfeVersion>3.23.0.74</GfeVersion>\
             <uniqueid>7C0F1B1E-5B0E-4E53-9A40-0D1B5B4B2E11</uniqueid>\
             <HttpsPort>47984</HttpsPort><ExternalPort>47989</ExternalPort>\
             <MaxLumaPixelsHEVC>1869449984</MaxLumaPixelsHEVC><mac>00:00:00:00:00:00</mac>\
             <LocalIP>192.168.1.10</LocalIP>\
             <ServerCodecModeSupport>197377</ServerCodecModeSupport><PairStatus>0</PairStatus>\
             <currentgame>0</currentgame><state>SUNSHINE_SERVER_FREE</state></root>"
        );
    }

    #[test]
    fn to_a_paired_client_it_tells_more() {
        let codecs = CodecSupport { h264: true, ..Default::default() };
        let mut info = example(&codecs);
        info.external_ip = Some(Ipv4Addr::new(203, 0, 113, 9));
        info.hostname = "<&\">]]>\u{1}";
        let text = body(info.response());
        for part in [
            "<hostname>&lt;&amp;&quot;&gt;]]&gt;\u{fffd}</hostname>",
            "<mac>02:00:00:ab:cd:ef</mac>",
            "<ExternalIP>203.0.113.9</ExternalIP>",
            "<MaxLumaPixelsHEVC>0</MaxLumaPixelsHEVC>",
            "<ServerCodecModeSupport>1</ServerCodecModeSupport>",
            "<PairStatus>1</PairStatus><currentgame>7</currentgame><state>SUNSHINE_SERVER_BUSY</state>",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("MJOLNIR"));
    }

    #[test]
    fn codec_masks() {
        assert_eq!(codec_bits::TEN_BIT, 0x0052_0200);
        assert_eq!(codec_bits::YUV444, 0x007c_0000);
        assert_eq!(codec_mode_support(&CodecSupport::default()), 0);
        assert_eq!(codec_mode_support(&everything()), 0x007f_0301);
        let without_codec = CodecSupport { hevc: false, ..everything() };
        assert_eq!(codec_mode_support(&without_codec), 0x0067_0001);
        let none = CodecSupport { extra_bits: u32::MAX, ..Default::default() };
        assert_eq!(codec_mode_support(&none), 0);
    }

    #[test]
    fn local_addresses() {
        for (local, told) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("fe80::1", "127.0.0.1"),
            ("2001:db8::1", "127.0.0.1"),
            ("::1", "127.0.0.1"),
        ] {
            assert_eq!(lan_address(local.parse().unwrap()).to_string(), told);
        }
    }

    #[test]
    fn app_lists() {
        let desktop = App { id: 1, title: "Desktop & more", hdr: false };
        let text = body(app_list([desktop, App { id: i32::MAX, title: "b", hdr: true }]));
        assert!(text.ends_with(
            "<root status_code=\"200\"><App><IsHdrSupported>0</IsHdrSupported>\
             <AppTitle>Desktop &amp; more</AppTitle><ID>1</ID></App><App><IsHdrSupported>1\
             </IsHdrSupported><AppTitle>b</AppTitle><ID>2147483647</ID></App></root>"
        ));
        assert!(body(app_list([])).ends_with("<root status_code=\"200\"/>"));
    }

    #[test]
    fn refusals() {
        let text = body(unauthorized("/launch<"));
        assert!(text.contains("<root status_code=\"401\" query=\"/launch&lt;\" status_message=\""));
        assert!(body(not_found()).contains("status_code=\"404\""));
        assert!(
            body(status(503, "busy")).contains("status_code=\"503\" status_message=\"busy\"/>")
        );
    }
}
