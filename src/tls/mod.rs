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

#[cfg(test)]
mod tests;
