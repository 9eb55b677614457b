//! Key material as types that cannot be printed and that are wiped when dropped.
use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// The AES-128 key of one launch or resume (`rikey`): RTSP, control, video and audio use it.
///
/// `Debug` prints no byte of it. It is serialised only on the sockets between our own processes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionKey(pub [u8; 16]);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

impl Drop for SessionKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
