//! The admin socket: one question and one answer per connection, each with a deadline.
//!
//! What only the front knows is passed on to it; this side waits for nobody.
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::peer;
use crate::ipc::{AdminAnswer, AdminRequest};
use crate::proc::link::{Link, LinkError};

/// From the connection to the answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Connections at once; more are told to come back.
const VISITORS_MAX: usize = 32;

/// The listening socket and who is there.
pub struct Admin {
    listener: OwnedFd,
    visitors: BTreeMap<u64, Visitor>,
    next: u64,
}

struct Visitor {
    link: Link,
    deadline: Instant,
    asked: bool,
}

impl Admin {
    /// Listens at `path`, for the owner only; what an earlier host left there is replaced.
    pub fn listen(path: &Path) -> io::Result<Self> {
        super::directory::remove(path);
        let listener = Link::listen(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Self { listener, visitors: BTreeMap::new(), next: 1 })
    }

    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Who is there, to be watched.
    pub fn visitors(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.visitors.iter().map(|(id, visitor)| (*id, visitor.link.as_fd()))
    }

    /// Lets in who waits at the door and may come in: root and the host's own user.
    pub fn welcome(&mut self, now: Instant) {
        while let Ok(Some(link)) = Link::accept(self.listener.as_fd()) {
            let own = rustix::process::geteuid();
            if !peer::user(&link).is_ok_and(|user| user.is_root() || user == own) {
                refuse(&link, "only root and the user of the host may ask");
            } else if self.visitors.len() >= VISITORS_MAX {
                refuse(&link, "too many questions at once: try again");
            } else {
                let visitor = Visitor { link, deadline: now + DEADLINE, asked: false };
                self.visitors.insert(self.next, visitor);
                self.next += 1;
            }
        }
    }

    /// The question of a visitor whose link is readable. Whoever has left, asks a second time or
    /// talks nonsense is shown out.
    pub fn question(&mut self, id: u64) -> Option<AdminRequest> {
        let visitor = self.visitors.get_mut(&id)?;
        match visitor.link.receive::<AdminRequest>() {
            Ok((request, _)) if !visitor.asked => {
                visitor.asked = true;
                Some(request)
            }
            Err(LinkError::Empty) => None,
            Err(LinkError::Malformed(what)) => {
                self.answer(id, &AdminAnswer::Error(format!("the question is malformed: {what}")));
                None
            }
            Ok(_) | Err(_) => {
                self.visitors.remove(&id);
                None
            }
        }
    }

    /// Answers; the visit is over.
    pub fn answer(&mut self, id: u64, answer: &AdminAnswer) {
        let Some(visitor) = self.visitors.remove(&id) else { return };
        if let Err(error) = visitor.link.send(answer, &[]) {
            tracing::debug!(%error, "an answer was not taken");
            refuse(&visitor.link, "the answer is too large");
        }
    }

    /// What this visitor asked for takes longer.
    pub fn be_patient(&mut self, id: u64, until: Instant) {
        if let Some(visitor) = self.visitors.get_mut(&id) {
            visitor.deadline = until;
        }
    }

    /// Ends the visits that have lasted too long.
    pub fn expire(&mut self, now: Instant) {
        let due = self.visitors.iter().filter(|(_, visitor)| visitor.deadline <= now);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            let words = "the front does not answer: see `moonshard doctor` and the host's log";
            self.answer(id, &AdminAnswer::Error(words.to_owned()));
        }
    }

    /// When the next visit has lasted too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.visitors.values().map(|visitor| visitor.deadline).min()
    }
}

fn refuse(link: &Link, words: &str) {
    let _ = link.send(&AdminAnswer::Error(words.to_owned()), &[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn one_question_one_answer_and_nobody_stays_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let mut admin = Admin::listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let now = Instant::now();
        let [asks, waits, lies] = [(); 3].map(|()| Link::connect(&path).unwrap());
        admin.welcome(now);
        asks.send(&AdminRequest::Apps, &[]).unwrap();
        lies.send(&17, &[]).unwrap();
        assert_eq!(admin.question(1), Some(AdminRequest::Apps));
        assert_eq!(admin.question(2), None);
        assert_eq!(admin.question(3), None);
        admin.answer(1, &AdminAnswer::Apps(vec![]));
        assert_eq!(asks.receive::<AdminAnswer>().unwrap().0, AdminAnswer::Apps(vec![]));
        assert!(matches!(lies.receive().unwrap().0, AdminAnswer::Error(_)));
        assert_eq!(admin.deadline(), Some(now + DEADLINE));
        admin.expire(now + DEADLINE);
        assert!(matches!(waits.receive().unwrap().0, AdminAnswer::Error(_)));
        assert_eq!(admin.deadline(), None);
        assert_eq!(admin.visitors().count(), 0);
    }

    #[test]
    fn more_visitors_than_allowed_are_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let mut admin = Admin::listen(&path).unwrap();
        let mut links = Vec::new();
        for _ in 0..=VISITORS_MAX {
            links.push(Link::connect(&path).unwrap());
            admin.welcome(Instant::now());
        }
        assert_eq!(admin.visitors().count(), VISITORS_MAX);
        let last = links.pop().unwrap();
        assert!(matches!(last.receive().unwrap().0, AdminAnswer::Error(_)));
    }
}
