//! A host seen over HTTP: what it says of itself, pairing, its apps, launch, resume and cancel.
//!
//! Source: moonlight-qt app/backend/nvhttp.cpp, app/backend/nvpairingmanager.cpp.
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moonshard::proto::crypto::Hash;
use moonshard::proto::hex;
use moonshard::proto::pairing::{ClientAttempt, ClientError, Pin, client_certificate_parameter};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::x509::Certificate;

use crate::admin::{AdminError, ask};
use crate::http::{Answer, HttpError, Secure, escape, get};
use crate::identity::{Identity, IdentityError};

const UNIQUE_ID: &str = "0123456789ABCDEF";
const USUAL: Duration = Duration::from_secs(10);
/// A person types the PIN.
const PIN_WAIT: Duration = Duration::from_secs(120);
/// A host may start the app before it answers.
const LAUNCH_WAIT: Duration = Duration::from_secs(60);
const HTTP_PORT: u16 = 47989;

/// Why there is no session on this host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{0} is no address, or has none of the wanted family")]
    Address(String),
    #[error("the host says nothing of its {0}")]
    Silent(&'static str),
    #[error("the host does not pair: {0}")]
    Pairing(String),
    #[error("the host has no app called {wanted:?}; it has: {known}")]
    App { wanted: String, known: String },
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("the host's `moonshard pair` shows no pairing of this client: is it the host of {0}?")]
    NotThere(SocketAddr),
}

impl HostError {
    /// The host's own words, if it has refused for a reason that it tells.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Http(HttpError::Refused { message, .. }) if !message.is_empty() => Some(message),
            _ => None,
        }
    }
}

impl From<ClientError> for HostError {
    fn from(error: ClientError) -> Self {
        Self::Pairing(error.to_string())
    }
}

/// How the PIN gets to the host.
pub enum PinEntry {
    /// Somebody types it there.
    ByHand(Pin, String),
    /// `moonshard pair` of this path.
    Admin(PathBuf),
}

/// Which family an address must have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Any,
    V4,
    V6,
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT` or an IPv6 address.
pub fn resolve(text: &str, family: Family) -> Result<SocketAddr, HostError> {
    let none = || HostError::Address(text.to_owned());
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
        Ok(address) => vec![(address, HTTP_PORT).into()],
        Err(_) if text.contains(':') => text.to_socket_addrs().map_err(|_| none())?.collect(),
        Err(_) => (text, HTTP_PORT).to_socket_addrs().map_err(|_| none())?.collect(),
    };
    let fits = |address: &SocketAddr| match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    found.into_iter().find(fits).ok_or_else(none)
}

/// A host that this client is paired with.
pub struct Host {
    pub http: SocketAddr,
    pub name: String,
    secure: Secure,
}

/// What a launch needs beyond the app.
pub struct Wanted<'a> {
    pub mode: (u32, u32, u32),
    pub channels: u8,
    pub key: &'a SessionKey,
    pub rikeyid: i32,
    pub encrypted_rtsp: bool,
}

impl Host {
    /// Finds out about the host, and pairs if it does not know this client.
    pub fn reach(
        http: SocketAddr,
        identity: &Identity,
        pin: Option<&PinEntry>,
    ) -> Result<Self, HostError> {
        let info = get(http, &format!("/serverinfo?uniqueid={UNIQUE_ID}"), USUAL)?;
        let text = |name| info.field(name).ok_or(HostError::Silent(name));
        let (id, name) = (text("uniqueid")?, text("hostname")?);
        let port = text("HttpsPort")?.parse().map_err(|_| HostError::Silent("HttpsPort"))?;
        let https = SocketAddr::new(http.ip(), port);
        if let Some(certificate) = identity.host(&id) {
            let secure = Secure::new(https, identity, &certificate)?;
            let answer = secure.get(&format!("/serverinfo?uniqueid={UNIQUE_ID}"), USUAL);
            let paired = answer.is_ok_and(|a| a.field("PairStatus").as_deref() == Some("1"));
            if paired {
                return Ok(Self { http, name, secure });
            }
        }
        let pin = pin.ok_or_else(|| {
            HostError::Pairing("it does not know this client; use --pin or --pin-via-admin".into())
        })?;
        let certificate = pair(http, identity, pin)?;
        let secure = Secure::new(https, identity, &certificate)?;
        let path = format!(
            "/pair?uniqueid={UNIQUE_ID}&devicename=roth&updateState=1&phrase=pairchallenge"
        );
        expect_paired(&secure.get(&path, USUAL)?)?;
        identity.remember(&id, &certificate)?;
        Ok(Self { http, name, secure })
    }

    /// The number of the app called `title`.
    pub fn app(&self, title: &str) -> Result<i32, HostError> {
        let list = self.secure.get(&format!("/applist?uniqueid={UNIQUE_ID}"), USUAL)?;
        let apps = list.each("App");
        let titles = || apps.iter().filter_map(|app| app.field("AppTitle")).collect::<Vec<_>>();
        let named = apps.iter().find(|app| app.field("AppTitle").as_deref() == Some(title));
        let id = named.and_then(|app| app.field("ID")?.parse().ok());
        id.ok_or_else(|| HostError::App { wanted: title.into(), known: titles().join(", ") })
    }

    /// The app of this client's session, 0 for none.
    pub fn running(&self) -> Result<i32, HostError> {
        let info = self.secure.get(&format!("/serverinfo?uniqueid={UNIQUE_ID}"), USUAL)?;
        Ok(info.field("currentgame").and_then(|id| id.parse().ok()).unwrap_or(0))
    }

    /// Starts the app, or takes its session up again. The session URL.
    pub fn start(&self, app: i32, resume: bool, wanted: &Wanted<'_>) -> Result<String, HostError> {
        let (width, height, fps) = wanted.mode;
        let mask: u32 = match wanted.channels {
            6 => 0x3F,
            8 => 0x63F,
            _ => 0x3,
        };
        let surround = mask << 16 | u32::from(wanted.channels);
        let verb = if resume { "resume" } else { "launch" };
        let mut path = format!(
            "/{verb}?uniqueid={UNIQUE_ID}&appid={app}&mode={width}x{height}x{fps}\
             &additionalStates=1&sops=0&rikey={}&rikeyid={}&localAudioPlayMode=0\
             &surroundAudioInfo={surround}&remoteControllersBitmap=0&gcmap=0&gcpersist=0",
            hex::encode(&wanted.key.0).to_lowercase(),
            wanted.rikeyid
        );
        if wanted.encrypted_rtsp {
            path.push_str("&corever=1");
        }
        let answer = self.secure.get(&path, LAUNCH_WAIT)?;
        answer.field("sessionUrl0").ok_or(HostError::Silent("sessionUrl0"))
    }

    /// Ends this client's app.
    pub fn cancel(&self) -> Result<(), HostError> {
        self.secure.get(&format!("/cancel?uniqueid={UNIQUE_ID}"), USUAL)?;
        Ok(())
    }
}

fn expect_paired(answer: &Answer) -> Result<(), HostError> {
    match answer.field("paired").as_deref() {
        Some("1") => Ok(()),
        _ => Err(HostError::Pairing("wrong PIN, or the host has declined".into())),
    }
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// All phases over plain HTTP; the host's certificate.
fn pair(http: SocketAddr, own: &Identity, entry: &PinEntry) -> Result<Certificate, HostError> {
    let salt = random();
    let client = own.certificate.clone();
    let parameter = client_certificate_parameter(&client);
    let phase = |query: &str, wait| {
        let path = format!("/pair?uniqueid={UNIQUE_ID}&devicename=roth&updateState=1&{query}");
        get(http, &path, wait)
    };
    let first = format!("phrase=getservercert&salt={}&clientcert={parameter}", hex::encode(&salt));
    let (pin, answer) = match entry {
        PinEntry::ByHand(pin, digits) => {
            eprintln!("Enter the PIN {digits} at the host.");
            (pin.clone(), phase(&first, PIN_WAIT)?)
        }
        PinEntry::Admin(program) => {
            let digits = format!("{:04}", u16::from_le_bytes([salt[0], salt[1]]) % 10_000);
            let pin = Pin::parse(&digits).expect("four digits");
            let known = pending(program)?;
            let answer = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| phase(&first, PIN_WAIT));
                enter(http, program, &known, &digits)?;
                waiting.join().expect("the request does not panic").map_err(HostError::from)
            })?;
            (pin, answer)
        }
    };
    let field = |answer: &Answer, name: &'static str| {
        let text = answer.field(name).ok_or(HostError::Silent(name))?;
        hex::decode(&text).ok_or(HostError::Silent(name))
    };
    expect_paired(&answer)?;
    let plain = answer
        .field("plaincert")
        .ok_or_else(|| HostError::Pairing("another pairing is in progress there".into()))?;
    let host = Certificate::from_hex_of_pem(&plain)
        .map_err(|error| HostError::Pairing(error.to_string()))?;
    let (attempt, challenge) =
        ClientAttempt::new(Hash::Sha256, &salt, &pin, client, host.clone(), random());
    let answer = phase(&format!("clientchallenge={}", hex::encode(&challenge)), USUAL)?;
    let (proof, response) =
        attempt.challenge_response(&field(&answer, "challengeresponse")?, random())?;
    let answer = phase(&format!("serverchallengeresp={}", hex::encode(&response)), USUAL)?;
    let secret = proof.pairing_secret(&field(&answer, "pairingsecret")?, &own.signer)?;
    expect_paired(&phase(&format!("clientpairingsecret={}", hex::encode(&secret)), USUAL)?)?;
    Ok(host)
}

/// Ids of the pairings that wait for their PIN.
fn pending(program: &Path) -> Result<Vec<String>, HostError> {
    let list = ask(program, &["pair"])?;
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(entries.iter().filter_map(|entry| entry["id"].as_str().map(escape)).collect())
}

/// Waits until the pairing appears and gives it its PIN.
fn enter(
    http: SocketAddr,
    program: &Path,
    known: &[String],
    digits: &str,
) -> Result<(), HostError> {
    let deadline = Instant::now() + USUAL;
    while Instant::now() < deadline {
        if let Some(id) = pending(program)?.iter().find(|id| !known.contains(id)) {
            ask(program, &["pair", id, digits])?;
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(HostError::NotThere(http))
}
