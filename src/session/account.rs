//! The session's account of itself: written every second on a sheet in its directory, from which the
//! supervisor tells operators. It needs no front, and waits for nobody.
use std::path::Path;
use std::time::Duration;

use crate::ipc::{SESSION_SHEET, SessionFigures, SessionSpec};
use crate::proc::sheet::Sheet;
use crate::time::Time;

const WRITE_EVERY: Duration = Duration::from_secs(1);

pub struct Account {
    /// None: there is no room for it; then nothing is known of this session, which is told as that.
    sheet: Option<Sheet>,
    began: Time,
    due: Time,
}

impl Account {
    /// Opens it, and tells that the session starts.
    pub fn open(directory: &Path, spec: &SessionSpec, now: Time) -> Self {
        let sheet = Sheet::create_at(&directory.join(SESSION_SHEET));
        let sheet = sheet.inspect_err(|error| {
            tracing::warn!(%error, "operators will not see the figures of this session");
        });
        let mut account = Self { sheet: sheet.ok(), began: now, due: now };
        let figures = SessionFigures {
            app: spec.app.title.clone(),
            state: "starting".into(),
            ..SessionFigures::default()
        };
        account.write(figures, now);
        account
    }

    /// When it is to be written again.
    pub fn due(&self) -> Time {
        self.due
    }

    pub fn write(&mut self, figures: SessionFigures, now: Time) {
        self.due = now + WRITE_EVERY;
        let figures = SessionFigures { began_ns: self.began.0, written_ns: now.0, ..figures };
        if let Some(Err(error)) = self.sheet.as_ref().map(|sheet| sheet.write(&figures)) {
            tracing::debug!(%error, "the figures were not written");
        }
    }
}
