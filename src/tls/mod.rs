//! TLS as the protocol needs it: the host's identity, a verifier that asks for possession of a key and
//! nothing else, and the server's settings. The only place (with the async wrapper in `shard`) that
//! names rustls.
//!
//! Who is paired is not known here: authorisation is decided per request by the client certificate's
//! bytes, also on a resumed connection.
pub mod client;
pub mod config;
pub mod identity;
pub mod verify;

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The peer does not speak TLS, or not as it should.
    Protocol,
    /// The client did not prove that it owns its certificate's key.
    Unproven,
    /// The client ended it: most likely this host's certificate is not the one that it knows.
    Alerted,
}

/// The kind of an error that a handshake ended with.
pub fn refusal(error: &std::io::Error) -> Refusal {
    use rustls::Error;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(_)) => Refusal::Unproven,
        Some(Error::AlertReceived(_)) => Refusal::Alerted,
        _ => Refusal::Protocol,
    }
}

#[cfg(test)]
mod tests;
