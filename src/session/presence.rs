//! Whether the app is there as its viewer would see it: it starts, shows something, leaves its work to
//! other processes, ends, fails.
//!
//! It decides what the viewer is told meanwhile and when the app counts as ended. It touches no process,
//! desktop or clock.
use std::time::Duration;

use crate::desktop::Notice;
use crate::ipc::SessionSpec;
use crate::proc::child::Exit;
use crate::time::Time;

/// An app whose first process has left, and none of the others shows anything, has ended after this.
/// What starts slowly, a launcher's game, has this long.
const SUCCESSOR_MAX: Duration = Duration::from_secs(10);
/// Characters of an app's own words that a viewer is shown.
const WORDS_MAX: usize = 400;

/// What can be seen of the app from outside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Something of it is on the desktop.
    pub shows: bool,
    /// Something ever was.
    pub has_shown: bool,
    /// Processes beside the first one that it has left behind.
    pub others: usize,
    /// Somebody looks, or may be about to: there was no viewer yet.
    pub watched: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Say(Notice),
    /// The app has ended.
    Over {
        status: String,
        last_words: String,
    },
}

/// One app from its start to its end.
#[derive(Debug)]
pub struct Presence {
    title: String,
    started: Time,
    slow_after: Duration,
    reason_for: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Its first process runs. `slow`: that was said.
    Running {
        slow: bool,
    },
    /// Its first process has left, others have not.
    Left {
        since: Time,
        exit: Exit,
        last_words: String,
    },
    /// The viewer is shown why, until then.
    Explained {
        until: Time,
        status: String,
        last_words: String,
    },
    Over,
}

impl Presence {
    pub fn new(spec: &SessionSpec, started: Time) -> Self {
        Self {
            title: spec.app.title.clone(),
            started,
            slow_after: Duration::from_millis(spec.policy.slow_app_ms),
            reason_for: Duration::from_millis(spec.policy.reason_ms),
            state: State::Running { slow: false },
        }
    }

    /// What is said as long as nothing is shown.
    pub fn greeting(&self) -> Notice {
        let title = format!("{} is starting\u{2026}", self.title);
        Notice { title, text: String::new(), covers: false }
    }

    /// The first process has ended.
    pub fn exited(
        &mut self,
        exit: Exit,
        last_words: String,
        seen: Seen,
        now: Time,
    ) -> Option<Step> {
        self.state = State::Left { since: now, exit, last_words };
        self.look(seen, "", now)
    }

    /// Time has passed. `last_words` are the app's last lines.
    pub fn look(&mut self, seen: Seen, last_words: &str, now: Time) -> Option<Step> {
        match &mut self.state {
            State::Running { slow } => {
                let waited = now.since(self.started);
                if *slow || seen.has_shown || waited < self.slow_after {
                    return None;
                }
                *slow = true;
                Some(Step::Say(self.slowness(waited, last_words)))
            }
            State::Left { since, exit, last_words } => {
                let successor = if seen.has_shown {
                    seen.shows
                } else {
                    *exit == Exit::Code(0) && now.since(*since) < SUCCESSOR_MAX
                };
                if successor && seen.others > 0 {
                    return None;
                }
                let (exit, last_words) = (*exit, std::mem::take(last_words));
                Some(self.end(exit, last_words, seen, now))
            }
            State::Explained { until, .. } if now < *until => None,
            State::Explained { status, last_words, .. } => {
                let (status, last_words) = (std::mem::take(status), std::mem::take(last_words));
                self.state = State::Over;
                Some(Step::Over { status, last_words })
            }
            State::Over => None,
        }
    }

    /// An end that nobody can have wished for is explained to who looks.
    fn end(&mut self, exit: Exit, last_words: String, seen: Seen, now: Time) -> Step {
        let status = exit.to_string();
        let wished = exit == Exit::Code(0) && seen.has_shown;
        if wished || !seen.watched || self.reason_for.is_zero() {
            self.state = State::Over;
            return Step::Over { status, last_words };
        }
        let notice = Notice {
            title: format!("{} has ended", self.title),
            text: reason(exit, &last_words, seen.has_shown),
            covers: true,
        };
        self.state = State::Explained { until: now + self.reason_for, status, last_words };
        Step::Say(notice)
    }

    fn slowness(&self, waited: Duration, last_words: &str) -> Notice {
        let mut text = format!(
            "It has run for {} s and has not shown anything yet.\nIt may need longer, or open no window \
             on Wayland.",
            waited.as_secs()
        );
        say_last(&mut text, last_words);
        Notice { title: format!("{} is starting\u{2026}", self.title), text, covers: false }
    }
}

/// Why an app ended, for a person: what happened, its last words, what to do.
pub fn reason(exit: Exit, last_words: &str, has_shown: bool) -> String {
    let mut text = match exit {
        Exit::Code(0) => "It ended by itself and has shown nothing (exit 0).".to_owned(),
        Exit::Code(126 | 127) => {
            format!("A program that it needs could not be run ({exit}).")
        }
        Exit::Code(_) if has_shown => format!("It reported a failure ({exit})."),
        Exit::Code(_) => format!("It reported a failure before it showed anything ({exit})."),
        Exit::Signal(9) => format!("It was killed ({exit}); the host may be short of memory."),
        Exit::Signal(_) => format!("It crashed ({exit})."),
    };
    say_last(&mut text, last_words);
    text.push_str("\nStart it again; if it ends again, the log of the host says more.");
    text
}

fn say_last(text: &mut String, last_words: &str) {
    let mut lines: Vec<&str> = last_words.lines().filter(|line| !line.trim().is_empty()).collect();
    let lines = lines.split_off(lines.len().saturating_sub(3));
    let lines: String = lines.join("\n").chars().take(WORDS_MAX).collect();
    if !lines.is_empty() {
        text.push_str("\nIts last words:\n\u{201c}");
        text.push_str(&lines);
        text.push('\u{201d}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::{AppSpec, ClientId, SessionId, SessionPolicy, VERSION};
    use crate::proto::stream::Mode;

    const UNSEEN: Seen = Seen { shows: false, has_shown: false, others: 0, watched: true };
    const SHOWN: Seen = Seen { shows: true, has_shown: true, ..UNSEEN };

    fn presence() -> Presence {
        let policy = SessionPolicy {
            keep_ms: 0,
            never_viewed_ms: 0,
            idle_fps: 10,
            slow_app_ms: 5_000,
            reason_ms: 4_000,
            keyboard_layout: String::new(),
            keyboard_variant: String::new(),
            encoder: String::new(),
            audio: false,
            adapt: true,
            media_cores: vec![],
        };
        let app = AppSpec {
            id: 1,
            title: "Game".into(),
            command: vec![],
            environment: Default::default(),
            directory: None,
        };
        let spec = SessionSpec {
            version: VERSION,
            id: SessionId(1),
            client: ClientId([0; 32]),
            client_name: String::new(),
            app,
            mode: Mode { width: 1, height: 1, millihertz: 1 },
            audio_channels: 2,
            policy,
        };
        Presence::new(&spec, Time::ZERO)
    }

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1_000)
    }

    fn over(status: &str, words: &str) -> Option<Step> {
        Some(Step::Over { status: status.into(), last_words: words.into() })
    }

    fn said(step: Option<Step>) -> Notice {
        match step {
            Some(Step::Say(notice)) => notice,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_app_that_shows_nothing_is_said_to_be_slow_once_with_its_last_words() {
        let mut app = presence();
        assert!(app.greeting().title.contains("Game"));
        assert_eq!(app.look(UNSEEN, "", at(4)), None);
        let notice = said(app.look(UNSEEN, "loading\nno GPU\n", at(5)));
        assert!(notice.text.contains("5 s") && notice.text.contains("no GPU"), "{notice:?}");
        assert!(!notice.covers);
        assert_eq!(app.look(UNSEEN, "", at(6)), None);
        let mut app = presence();
        assert_eq!(app.look(SHOWN, "", at(9)), None);
    }

    #[test]
    fn a_failure_is_explained_before_the_end() {
        let mut app = presence();
        let notice = said(app.exited(Exit::Code(7), "no display".into(), UNSEEN, at(1)));
        assert!(notice.covers);
        assert!(notice.text.contains("exit 7") && notice.text.contains("no display"), "{notice:?}");
        assert_eq!(app.look(UNSEEN, "", at(4)), None);
        assert_eq!(app.look(UNSEEN, "", at(5)), over("exit 7", "no display"));
        assert_eq!(app.look(UNSEEN, "", at(6)), None);
    }

    #[test]
    fn a_wished_end_and_one_that_nobody_sees_need_no_words() {
        let ended = Seen { shows: false, ..SHOWN };
        assert_eq!(
            presence().exited(Exit::Code(0), "bye".into(), ended, at(1)),
            over("exit 0", "bye")
        );
        let alone = Seen { watched: false, ..UNSEEN };
        assert_eq!(
            presence().exited(Exit::Signal(11), "".into(), alone, at(1)),
            over("signal 11", "")
        );
        said(presence().exited(Exit::Signal(11), "".into(), ended, at(1)));
        let mut silent = presence();
        silent.reason_for = Duration::ZERO;
        assert_eq!(silent.exited(Exit::Code(1), "".into(), UNSEEN, at(1)), over("exit 1", ""));
    }

    #[test]
    fn a_launcher_may_leave_and_its_game_go_on() {
        let mut app = presence();
        let waits = Seen { others: 2, ..UNSEEN };
        assert_eq!(app.exited(Exit::Code(0), "".into(), waits, at(1)), None);
        assert_eq!(app.look(waits, "", at(8)), None);
        let plays = Seen { others: 1, ..SHOWN };
        assert_eq!(app.look(plays, "", at(1_000)), None);
        // A daemon stays behind, the window is gone.
        let ended = Seen { shows: false, ..plays };
        assert_eq!(app.look(ended, "", at(1_001)), over("exit 0", ""));

        let mut app = presence();
        assert_eq!(app.exited(Exit::Code(0), "".into(), waits, at(1)), None);
        let notice = said(app.look(waits, "", at(11)));
        assert!(notice.text.contains("shown nothing"), "{notice:?}");
    }

    #[test]
    fn words_for_a_viewer_are_few() {
        let text = reason(Exit::Code(1), &"word ".repeat(1_000), true);
        assert!(text.chars().count() < WORDS_MAX + 200, "{text}");
        assert!(reason(Exit::Code(127), "", false).contains("could not be run"));
        assert!(reason(Exit::Signal(9), "", true).contains("memory"));
    }
}
