//! One HTTP/1.1 request head and one response: what the discovery and pairing API needs, no more.
//!
//! A connection carries one GET without a body and is then closed. Whatever could be read in two ways
//! (two lengths, bare line feeds, folded lines, absolute targets) is refused with a real HTTP status;
//! the outcomes of the API itself are always HTTP 200 with the status in the XML, see `xml`.
//! Sources: RFC 9112; which clients send what: moonlight-qt app/backend/nvhttp.cpp,
//! moonlight-android NvHTTP.java, moonlight-embedded libgamestream/http.c.
use std::fmt;

use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

/// Parameters read from one query; the rest is not kept and marks the query as defective.
pub const QUERY_PARAMETERS_MAX: usize = 64;

/// A head that is not one unambiguous request for us. Answer with
/// [`Response::refusal`] and close; whatever follows on the connection is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Longer than 32 KiB before it ended.
    #[error("the request head is longer than {HTTP_HEAD_BYTES_MAX} bytes")]
    HeadTooLong,
    /// More than 64 header lines.
    #[error("the request has more than {HTTP_HEADERS_MAX} header lines")]
    TooManyHeaders,
    /// A line feed without carriage return, a carriage return without line feed, or a zero byte.
    #[error("the request head holds a bare CR, a bare LF or a NUL byte")]
    LineEnd,
    /// Not a request line and header lines, folded lines and HTTP/0.9 included.
    #[error("the request head is malformed")]
    Malformed,
    /// A version other than 1.0 and 1.1.
    #[error("the protocol version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    /// A method other than GET.
    #[error("only GET is answered here")]
    Method,
    /// The target does not begin with a slash, or has a fragment.
    #[error("the request target is not an absolute path")]
    Target,
    /// A body is announced, or its length is given in two ways.
    #[error("requests with a body are refused")]
    Body,
    /// More than one Host line.
    #[error("the request names more than one host")]
    Host,
}

impl HttpError {
    /// The status line's number and reason.
    pub const fn status(self) -> (u16, &'static str) {
        (400, "Bad Request")
    }
}

/// A request, free of anything that was not checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Always [`Method::Get`].
    pub method: Method,
    /// Begins with a slash; as sent, percent-encoding not undone.
    pub path: String,
    pub query: Query,
}

/// The values of a query can be keys, so only the path is printed.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The methods that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
}

/// Namespace of the request head parser.
pub struct Head;

impl Head {
    /// Looks for one head at the start of `bytes`, which is everything received so far.
    ///
    /// Nothing yet: read on (and call again with all bytes). Otherwise the request and how many bytes
    /// its head took. Errors come as soon as they are certain, not only at the end of the head.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, HttpError> {
        let within = &bytes[..bytes.len().min(HTTP_HEAD_BYTES_MAX)];
        let end = find_end(within)?;
        let mut lines = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
        let mut head = httparse::Request::new(&mut lines);
        let parsed = head.parse(&within[..end.unwrap_or(within.len())]);
        match (parsed, end) {
            (Ok(httparse::Status::Complete(used)), Some(end)) if used == end => {
                request(&head).map(|request| Some((request, used)))
            }
            (Ok(httparse::Status::Partial), None) if within.len() == bytes.len() => Ok(None),
            (Ok(httparse::Status::Partial), None) => Err(HttpError::HeadTooLong),
            (Err(httparse::Error::TooManyHeaders), _) => Err(HttpError::TooManyHeaders),
            (Err(httparse::Error::Version), _) => Err(HttpError::Version),
            _ => Err(HttpError::Malformed),
        }
    }
}

/// The length of the head if it is complete. Checks line ends on the way.
fn find_end(bytes: &[u8]) -> Result<Option<usize>, HttpError> {
    let mut line_start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            0 => return Err(HttpError::LineEnd),
            b'\r' if bytes.get(at + 1).is_some_and(|&next| next != b'\n') => {
                return Err(HttpError::LineEnd);
            }
            b'\n' if at == 0 || bytes[at - 1] != b'\r' => return Err(HttpError::LineEnd),
            b'\n' if at == line_start + 1 => return Ok(Some(at + 1)),
            b'\n' => line_start = at + 1,
            _ => {}
        }
    }
    Ok(None)
}

fn request(head: &httparse::Request<'_, '_>) -> Result<Request, HttpError> {
    if head.method != Some("GET") {
        return Err(HttpError::Method);
    }
    let is = |line: &httparse::Header<'_>, name: &str| line.name.eq_ignore_ascii_case(name);
    let mut lengths = 0;
    let mut hosts = 0;
    for line in head.headers.iter() {
        if is(line, "transfer-encoding") || is(line, "content-length") && line.value != b"0" {
            return Err(HttpError::Body);
        }
        lengths += usize::from(is(line, "content-length"));
        hosts += usize::from(is(line, "host"));
    }
    if lengths > 1 {
        return Err(HttpError::Body);
    }
    if hosts > 1 {
        return Err(HttpError::Host);
    }
    let target = head.path.ok_or(HttpError::Malformed)?;
    if !target.starts_with('/') || target.contains('#') {
        return Err(HttpError::Target);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Request { method: Method::Get, path: path.to_owned(), query: Query::parse(query) })
}

/// What is wrong with a query. An endpoint that changes anything answers such a query with status 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryDefect {
    /// A percent sign without two hexadecimal digits after it.
    #[error("a parameter is not percent-encoded correctly")]
    Escape,
    /// The decoded bytes are not UTF-8.
    #[error("a parameter is not UTF-8")]
    Utf8,
    /// More than 64 parameters.
    #[error("the query has more than {QUERY_PARAMETERS_MAX} parameters")]
    TooMany,
}

/// The decoded parameters of one request, in the order sent.
///
/// Percent-encoding is undone, a plus sign stays one. Of parameters with the same name the first wins;
/// [`repeated`](Query::repeated) tells of it. Parameters that cannot be decoded are left out and
/// remembered as the query's [`defect`](Query::defect): harmless endpoints answer all the same.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Query {
    parameters: Vec<(String, String)>,
    defect: Option<QueryDefect>,
}

impl Query {
    /// Decodes the text after the question mark. Never larger than that text and 64 entries.
    pub fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if query.parameters.len() == QUERY_PARAMETERS_MAX {
                query.defect.get_or_insert(QueryDefect::TooMany);
                break;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match decode(name).and_then(|name| Ok((name, decode(value)?))) {
                Ok(parameter) => query.parameters.push(parameter),
                Err(defect) => _ = query.defect.get_or_insert(defect),
            }
        }
        query
    }

    /// The value of the first parameter called `name`, letter case included.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether `name` is given more than once with different values.
    pub fn repeated(&self, name: &str) -> bool {
        let mut values = self.parameters.iter().filter(|(n, _)| n == name).map(|(_, value)| value);
        values.next().is_some_and(|first| values.any(|other| other != first))
    }

    /// The parameters as text again, with every byte escaped that is not a letter or a digit.
    pub fn write(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.parameters {
            let separator = if text.is_empty() { "" } else { "&" };
            text.extend([separator, &encode(name), "=", &encode(value)]);
        }
        text
    }

    /// The first thing that was wrong with the query.
    pub const fn defect(&self) -> Option<QueryDefect> {
        self.defect
    }
}

/// Prints names only: values can be keys.
impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parameters.iter().map(|(name, _)| name)).finish()
    }
}

fn encode(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            escaped.push(byte.into());
        } else {
            escaped.extend(["%", &super::hex::encode(&[byte])]);
        }
    }
    escaped
}

fn decode(text: &str) -> Result<String, QueryDefect> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'%' {
            let digits = after.first_chunk::<2>().ok_or(QueryDefect::Escape)?;
            let digits = std::str::from_utf8(digits).map_err(|_| QueryDefect::Escape)?;
            bytes.extend(super::hex::decode_array::<1>(digits).ok_or(QueryDefect::Escape)?);
            rest = &after[2..];
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| QueryDefect::Utf8)
}

/// An answer, after which the connection is closed.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status; 200 for every outcome of the API, see `xml`.
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Response {
    /// An XML document, HTTP 200.
    pub fn xml(document: String) -> Self {
        Self { status: 200, content_type: "application/xml", body: document.into_bytes() }
    }

    /// A picture, HTTP 200.
    pub fn png(picture: Vec<u8>) -> Self {
        Self { status: 200, content_type: "image/png", body: picture }
    }

    /// Nothing to be had, HTTP 404: right only for `/appasset`, where clients show a placeholder.
    pub fn no_asset() -> Self {
        Self { status: 404, content_type: "text/plain", body: b"no such picture\n".to_vec() }
    }

    /// The answer to a head that is no request.
    pub fn refusal(error: HttpError) -> Self {
        let body = format!("{error}\n").into_bytes();
        Self { status: error.status().0, content_type: "text/plain", body }
    }

    /// Status line, header lines and body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            503 => "Service Unavailable",
            _ => "Error",
        };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Bodies can hold certificates and box art: only the length is printed.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<(Request, usize)>, HttpError> {
        Head::parse(text.as_bytes())
    }

    fn query(text: &str) -> Query {
        parse(&format!("GET /x?{text} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap().unwrap().0.query
    }

    #[test]
    fn a_request_and_every_prefix_of_it() {
        let text = "GET /serverinfo?uniqueid=0123456789ABCDEF&uuid=a%20b HTTP/1.1\r\n\
                    Host: 10.0.0.1:47989\r\nUser-Agent: Mozilla/5.0\r\nContent-Length: 0\r\n\r\n";
        let (request, used) = parse(text).unwrap().unwrap();
        assert_eq!(used, text.len());
        assert_eq!(request.path, "/serverinfo");
        assert_eq!(request.query.get("uniqueid"), Some("0123456789ABCDEF"));
        assert_eq!(request.query.get("uuid"), Some("a b"));
        assert_eq!(request.query.get("UUID"), None);
        for short in 0..text.len() {
            assert_eq!(parse(&text[..short]), Ok(None), "{short}");
        }
        let more = format!("{text}GET /second HTTP/1.1\r\n\r\n");
        assert_eq!(parse(&more).unwrap().unwrap().1, text.len());
    }

    #[test]
    fn a_minimal_request_of_either_version() {
        for version in ["1.0", "1.1"] {
            let (request, _) = parse(&format!("GET / HTTP/{version}\r\n\r\n")).unwrap().unwrap();
            assert_eq!((request.path.as_str(), request.query.get("a")), ("/", None));
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        use HttpError::*;
        let cases: &[(&str, HttpError)] = &[
            ("GET / HTTP/1.1\nHost: h\n\n", LineEnd),
            ("GET / HTTP/1.1\r\nHost: h\n\r\n", LineEnd),
            ("GET / HTTP/1.1\rHost: h\r\n\r\n", LineEnd),
            ("\nGET / HTTP/1.1\r\n\r\n", LineEnd),
            ("GET /\0 HTTP/1.1\r\n\r\n", LineEnd),
            ("GET / HTTP/1.1\r\nX: a\0b\r\n\r\n", LineEnd),
            ("\r\nGET / HTTP/1.1\r\n\r\n", Malformed),
            ("GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", Malformed),
            ("GET / HTTP/1.1\r\n X: a\r\n\r\n", Malformed),
            ("GET / HTTP/1.1\r\nX : a\r\n\r\n", Malformed),
            ("GET / HTTP/1.1\r\nX\r\n\r\n", Malformed),
            ("GET  / HTTP/1.1\r\n\r\n", Malformed),
            ("GET /\r\n", Malformed),
            ("GET /a b HTTP/1.1\r\n\r\n", Version),
            ("GET / HTTP/2.0\r\n\r\n", Version),
            ("GET / HTTP/0.9\r\n\r\n", Version),
            ("PRI * HTTP/2.0\r\n\r\n", Version),
            ("POST / HTTP/1.1\r\n\r\n", Method),
            ("HEAD / HTTP/1.1\r\n\r\n", Method),
            ("get / HTTP/1.1\r\n\r\n", Method),
            ("TRACE / HTTP/1.1\r\n\r\n", Method),
            ("CONNECT a:1 HTTP/1.1\r\n\r\n", Method),
            ("GET http://h/ HTTP/1.1\r\n\r\n", Target),
            ("GET * HTTP/1.1\r\n\r\n", Target),
            ("GET /#a HTTP/1.1\r\n\r\n", Target),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", Body),
            ("GET / HTTP/1.1\r\nContent-Length: +0\r\n\r\n", Body),
            ("GET / HTTP/1.1\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n", Body),
            ("GET / HTTP/1.1\r\nContent-Length: 0, 0\r\n\r\n", Body),
            ("GET / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", Body),
            ("GET / HTTP/1.1\r\ntransfer-encoding: identity\r\n\r\n", Body),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Host),
            // What opens a TLS connection on the plain port.
            ("\x16\x03\x01\x02\x00\x01", LineEnd),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text).unwrap_err(), *error, "{text:?}");
            assert_eq!(error.status().0, 400);
        }
    }

    #[test]
    fn size_limits() {
        let long = |extra: usize| format!("GET /?a={} HTTP/1.1\r\n\r\n", "b".repeat(extra));
        let frame = long(0).len();
        assert!(parse(&long(HTTP_HEAD_BYTES_MAX - frame)).unwrap().is_some());
        assert_eq!(parse(&long(HTTP_HEAD_BYTES_MAX - frame + 1)), Err(HttpError::HeadTooLong));
        assert_eq!(parse(&long(100 * 1024)), Err(HttpError::HeadTooLong));
        let lines = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(n));
        assert!(parse(&lines(HTTP_HEADERS_MAX)).unwrap().is_some());
        assert_eq!(parse(&lines(HTTP_HEADERS_MAX + 1)), Err(HttpError::TooManyHeaders));
        assert_eq!(parse(&lines(1000)), Err(HttpError::TooManyHeaders));
    }

    #[test]
    fn queries() {
        let q = query("a=1&b&=c&a=2&d=%41%c3%a9+%00&&e==");
        assert_eq!(q.get("a"), Some("1"), "the first wins");
        assert_eq!((q.get("b"), q.get(""), q.get("e")), (Some(""), Some("c"), Some("=")));
        assert_eq!(q.get("d"), Some("A\u{e9}+\0"));
        assert_eq!(q.defect(), None);
        assert!(q.repeated("a") && !q.repeated("b") && !query("a=1&a=1").repeated("a"));
        for (text, defect) in [
            ("a=%", QueryDefect::Escape),
            ("a=%4", QueryDefect::Escape),
            ("a=%4g", QueryDefect::Escape),
            ("a=%+1", QueryDefect::Escape),
            ("%zz=1", QueryDefect::Escape),
            ("a=%ff", QueryDefect::Utf8),
            ("a=%c3", QueryDefect::Utf8),
        ] {
            let q = query(&format!("{text}&b=1"));
            assert_eq!((q.defect(), q.get("a"), q.get("b")), (Some(defect), None, Some("1")));
        }
        let many = query(&"a=1&".repeat(65));
        assert_eq!(many.defect(), Some(QueryDefect::TooMany));
        assert_eq!(query(&"a=1&".repeat(64)).defect(), None);
    }

    #[test]
    fn responses() {
        let bytes = Response::xml("<root/>".to_owned()).to_bytes();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: 7\r\n\
             Connection: close\r\n\r\n<root/>"
        );
        let refusal = Response::refusal(HttpError::Method).to_bytes();
        assert!(refusal.starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
        assert_eq!(Response::no_asset().status, 404);
    }

    #[test]
    fn values_are_not_printed() {
        let q = query("rikey=00112233");
        assert_eq!(format!("{q:?}"), r#"["rikey"]"#);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            _ = Head::parse(&bytes);
        }

        #[test]
        fn nothing_near_a_request_panics(
            head in "(GET|POST) [/a-z%?&=]{0,20}[^ ]{0,6} HTTP/1\\.[01]\r\n(([a-zA-Z:-]{1,9}|Host|Content-Length|Transfer-Encoding): ?.{0,9}\r?\n){0,4}\r\n"
        ) {
            if let Ok(Some((request, used))) = Head::parse(head.as_bytes()) {
                prop_assert!(request.path.starts_with('/'));
                prop_assert!(used <= head.len());
            }
        }

        #[test]
        fn any_query_is_decoded_or_marked(text in ".*") {
            let q = Query::parse(&text);
            let kept: usize = q.parameters.iter().map(|(n, v)| n.len() + v.len()).sum();
            prop_assert!(kept <= text.len());
        }

        #[test]
        fn encoded_values_come_back(value in ".*") {
            let encoded: String = value.bytes().map(|b| format!("%{b:02x}")).collect();
            let q = query(&format!("v={encoded}"));
            prop_assert_eq!(q.get("v"), Some(value.as_str()));
        }
    }
}
