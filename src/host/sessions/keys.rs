//! The keys of each client's last launches: a key that returns would repeat IVs.
//!
//! A key counts as used from the moment its launch is granted, not before: one that was refused can be
//! tried again as it is.
use std::collections::{BTreeMap, VecDeque};

use crate::ipc::ClientId;
use crate::proto::secret::SessionKey;

/// Keys of one client that are remembered; the oldest goes first. A stream and a launch that takes it
/// over are two; the others are for a client that hurries.
const KEYS_MAX: usize = 4;

/// Bounded by the paired clients: nobody else is granted a launch.
#[derive(Default)]
pub(super) struct UsedKeys(BTreeMap<ClientId, VecDeque<SessionKey>>);

impl UsedKeys {
    pub(super) fn holds(&self, client: ClientId, key: &SessionKey) -> bool {
        self.0.get(&client).is_some_and(|keys| keys.contains(key))
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(VecDeque::len).sum()
    }

    pub(super) fn note(&mut self, client: ClientId, key: &SessionKey) {
        let keys = self.0.entry(client).or_default();
        if keys.contains(key) {
            return;
        }
        if keys.len() >= KEYS_MAX {
            keys.pop_front();
        }
        keys.push_back(key.clone());
    }
}
