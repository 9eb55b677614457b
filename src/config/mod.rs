//! The configuration: what a TOML file says (`raw`) and what it means (`resolved`).
//!
//! Pure: text in, values or errors with line and column out. It reads no file and no environment;
//! paths that depend on them are passed in (`Surroundings`).
mod error;
mod print;
mod raw;
mod resolve;
mod resolved;
mod surroundings;
#[cfg(test)]
mod tests;

pub use error::ConfigError;
pub use resolved::*;
pub use surroundings::Surroundings;

impl Config {
    /// What `text` (TOML) means here. The empty text gives the defaults.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what to do about it.
    pub fn parse(text: &str, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let file = raw::File::parse(text)?;
        resolve::resolve(file, surroundings).map_err(|fault| fault.locate(text))
    }
}
