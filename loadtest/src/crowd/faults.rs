//! What a soak does to the host on this machine: finds the processes of one client's session and stops or
//! kills them.
use std::path::Path;
use std::time::{Duration, Instant};

use moonshard::proto::crypto::Hash;
use moonshard::proto::hex;
use rustix::process::{Pid, Signal, kill_process};

use super::plan::Fault;
use crate::admin::sessions;
use crate::census::tree;
use crate::identity::Identity;

/// Into the stream, so that it runs.
const AFTER: Duration = Duration::from_millis(1_500);
/// A stream has begun in this time.
const WAIT: Duration = Duration::from_secs(20);

/// Waits until the client of this state directory streams, then a moment, and does it. What went wrong, if
/// it could not be done.
pub fn strike(program: &Path, client_state: &Path, fault: Fault) -> Result<(), String> {
    let identity = Identity::load_or_make(client_state).map_err(|error| error.to_string())?;
    let client = hex::encode(&Hash::Sha256.of(&[identity.certificate.der()])).to_lowercase();
    let deadline = Instant::now() + WAIT;
    let streams = || {
        let all = sessions(program).map_err(|error| error.to_string())?;
        let own = all.iter().find(|session| {
            session["client"].as_str() == Some(client.as_str()) && session["state"] == "streaming"
        });
        let pid = own.and_then(|session| u32::try_from(session["pid"].as_u64()?).ok());
        Ok::<_, String>(pid.and_then(|session| Some((session, encoder(session)?))))
    };
    let (session, encoder) = loop {
        if let Some(found) = streams()? {
            break found;
        }
        if Instant::now() > deadline {
            return Err("its stream is not to be found".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    std::thread::sleep(AFTER);
    let (victim, signal) = match fault {
        Fault::KillSession => (session, Signal::KILL),
        Fault::StopEncoder => (encoder, Signal::STOP),
        Fault::KillEncoder => (encoder, Signal::KILL),
    };
    let victim = i32::try_from(victim).ok().and_then(Pid::from_raw).ok_or("no process")?;
    kill_process(victim, signal).map_err(|error| error.to_string())
}

fn encoder(session: u32) -> Option<u32> {
    let below = tree(session);
    below.iter().find(|process| process.command.contains("moonshard encoder")).map(|p| p.pid)
}
