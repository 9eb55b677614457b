//! What comes from our own side: messages between our processes and over the admin socket, and the
//! configuration. An old session meets a new front, and operators edit files.
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Config, Surroundings};
use crate::ipc::{
    AdminAnswer, AdminRequest, EncoderBoot, EncoderReport, FrameNote, FromEncoder, FromSession,
    FrontBoot, FrontFigures, FrontOrder, FrontReport, SessionBoot, ToEncoder, ToSession,
};

/// One datagram of a link: JSON, or a frame note.
pub fn ipc(bytes: &[u8]) {
    message::<FrontOrder>(bytes);
    message::<FrontReport>(bytes);
    message::<FrontBoot>(bytes);
    message::<FrontFigures>(bytes);
    message::<SessionBoot>(bytes);
    message::<ToSession>(bytes);
    message::<EncoderBoot>(bytes);
    message::<EncoderReport>(bytes);
    message::<ToEncoder>(bytes);
    message::<FromEncoder>(bytes);
    message::<AdminRequest>(bytes);
    // Their figures may change in the last digit.
    _ = again::<FromSession>(bytes);
    _ = again::<AdminAnswer>(bytes);
    if let Some(note) = FrameNote::from_bytes(bytes) {
        assert_eq!(FrameNote::from_bytes(&note.to_bytes()), Some(note));
    }
}

/// What one process could read, it can also say, and the other reads the same.
fn message<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Some((said, heard)) = again::<T>(bytes) {
        assert_eq!(String::from_utf8_lossy(&said), String::from_utf8_lossy(&heard));
    }
}

/// The JSON of a message that was read, and of what a peer makes of that.
fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let said = serde_json::to_vec(&value).expect("it came from JSON");
    let heard: T = serde_json::from_slice(&said).expect("our own JSON");
    let heard = serde_json::to_vec(&heard).expect("it came from JSON");
    Some((said, heard))
}

/// The text of the configuration file.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let around = Surroundings {
        root: true,
        host_name: "gamebox".to_owned(),
        cores: vec![0, 1, 2, 3],
        ..Surroundings::default()
    };
    match Config::parse(&text, &around) {
        Ok(config) => {
            let printed = config.to_toml().expect("its paths came from text");
            let again = Config::parse(&printed, &around);
            assert_eq!(again.as_ref(), Ok(&config), "{printed}");
        }
        Err(error) => {
            assert!(error.to_string().contains(&error.message));
            if let Some((line, column)) = error.place {
                assert!(line <= text.lines().count().max(1) + 1 && column > 0, "{line}:{column}");
            }
        }
    }
}
