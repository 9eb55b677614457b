//! The attached encoder: its ring, its link, and when it gets which frame.
//!
//! Nothing here waits: a frame that cannot go out now is dropped and counted, and stays owed.
use std::time::Instant;

use smithay::backend::renderer::damage::OutputDamageTracker;
use smithay::backend::renderer::pixman::PixmanRenderer;
use smithay::backend::renderer::{Bind, Color32F};
use smithay::output::Output;
use tracing::{debug, info, warn};

use super::clock::{Due, Pace, RefreshClock};
use super::draw::Piece;
use super::figures::Figures;
use super::ring::Ring;
use super::run::now;
use crate::ipc::FrameNote;
use crate::proc::link::{Link, LinkError};
use crate::proto::stream::Mode;
use crate::time::Time;

/// Ticks per second, in thousandths, when nobody watches: applications live on slowly.
const UNWATCHED_MILLIHERTZ: u32 = 10_000;
/// Hand-backs taken at one tick; an honest encoder has at most one per slot.
const HAND_BACKS_MAX: usize = 64;
/// Where no application shows anything: 0xRRGGBB.
pub const BACKGROUND: u32 = 0x17_1A_1F;

/// What is shown, and to whom.
pub struct Screen {
    pub renderer: PixmanRenderer,
    attached: Option<Attached>,
    /// Finds out whether anything has changed since the last look.
    changes: OutputDamageTracker,
    /// Knows what each slot of the ring lacks.
    drawings: OutputDamageTracker,
    mode: Mode,
    clock: RefreshClock,
    pace: Pace,
    idle_fps: u32,
    /// Something may look different than at the last look.
    pub stale: bool,
}

struct Attached {
    frames: Link,
    ring: Ring,
    /// Number of the last frame sent; the first is 1.
    seq: u64,
    drawing_failed: bool,
}

impl Screen {
    pub fn new(output: &Output, mode: Mode, idle_fps: u32, now: Time) -> Self {
        Self {
            renderer: PixmanRenderer::new().expect("the pixman renderer has no way to fail"),
            attached: None,
            changes: OutputDamageTracker::from_output(output),
            drawings: OutputDamageTracker::from_output(output),
            mode,
            clock: RefreshClock::new(now, UNWATCHED_MILLIHERTZ),
            pace: Pace::new(idle_fps, now),
            idle_fps,
            stale: true,
        }
    }

    pub fn attach(&mut self, frames: Link, ring: Ring, now: Time) {
        self.attached = Some(Attached { frames, ring, seq: 0, drawing_failed: false });
        self.restart(now);
    }

    pub fn detach(&mut self) {
        self.attached = None;
        self.clock = RefreshClock::new(now(), UNWATCHED_MILLIHERTZ);
    }

    pub fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    /// The output has a new mode: a new rate, and all to be drawn anew.
    pub fn change_mode(&mut self, output: &Output, mode: Mode, now: Time) {
        self.mode = mode;
        self.changes = OutputDamageTracker::from_output(output);
        self.drawings = OutputDamageTracker::from_output(output);
        if let Some(attached) = &mut self.attached {
            attached.ring.spoilt();
            self.restart(now);
        }
    }

    /// A full frame is owed at once, at the mode's rate.
    fn restart(&mut self, now: Time) {
        self.clock = RefreshClock::new(now, self.mode.millihertz);
        self.pace = Pace::new(self.idle_fps, now);
        self.stale = true;
    }

    /// Ticks per second, in thousandths, and the grid they lie on.
    pub fn clock(&self) -> RefreshClock {
        self.clock
    }

    /// Takes back the slots that the encoder has done with.
    pub fn take_back(&mut self, figures: &Figures) {
        let Some(attached) = &mut self.attached else { return };
        // Longer than a note: a longer message is told from a note, not cut to one.
        let mut buffer = [0; 2 * FrameNote::BYTES];
        for _ in 0..HAND_BACKS_MAX {
            match attached.frames.receive_bytes(&mut buffer) {
                Ok((length, _)) => {
                    let note = FrameNote::from_bytes(&buffer[..length]);
                    let taken = note.map(|n| attached.ring.handed_back(n.slot, n.seq));
                    if taken != Some(Ok(())) {
                        figures.hand_backs_refused.add();
                    }
                }
                Err(LinkError::Empty) => return,
                Err(LinkError::Malformed(_)) => figures.hand_backs_refused.add(),
                Err(LinkError::Closed) => {
                    info!("the encoder has closed its link");
                    return self.detach();
                }
                Err(e) => {
                    warn!(error = %e, "frame link");
                    return self.detach();
                }
            }
        }
    }

    /// Whether a frame goes out at this tick. `pieces` are made only if there was reason to look.
    pub fn due(&mut self, now: Time, pieces: Option<&[Piece<'_>]>) -> Due {
        if let Some(pieces) = pieces {
            self.stale = false;
            // Without an output mode there is nothing to see; there always is one.
            if self.changes.damage_output(1, pieces).is_ok_and(|(damage, _)| damage.is_some()) {
                self.pace.change(now);
            }
        }
        self.pace.due(now, self.clock.interval())
    }

    /// The due frame can be sent without drawing: a free slot shows just that picture.
    pub fn has_current_slot(&self) -> bool {
        let ring = self.attached.as_ref().map(|a| &a.ring);
        ring.is_some_and(|r| r.free_slot().is_some_and(|s| r.is_current(s)))
    }

    /// Draws into a free slot and sends it. `pieces` is None: the picture is that of the last frame,
    /// and a free slot still shows it. True: the encoder has the frame.
    pub fn show(
        &mut self,
        pieces: Option<&[Piece<'_>]>,
        repeated: bool,
        figures: &Figures,
    ) -> bool {
        let Some(attached) = &mut self.attached else { return false };
        let spec = attached.ring.spec();
        if (spec.width, spec.height) != (self.mode.width.into(), self.mode.height.into()) {
            figures.frames_dropped_ring_size.add();
            return false;
        }
        let Some(slot) = attached.ring.free_slot() else {
            if !repeated {
                figures.frames_dropped_no_slot.add();
            }
            return false;
        };
        if let Some(pieces) = pieces {
            let start = Instant::now();
            let drawn = draw(&mut self.renderer, &mut self.drawings, attached, slot, pieces);
            figures.rendered(start.elapsed());
            if !drawn {
                figures.frames_dropped_render.add();
                return false;
            }
        }
        let sent = now();
        let note = FrameNote { slot, seq: attached.seq + 1, captured_ns: sent.0, repeated };
        match attached.frames.send_bytes(&note.to_bytes(), &[]) {
            Ok(()) => {
                attached.seq += 1;
                attached.ring.sent(slot, attached.seq);
                self.pace.send(sent);
                if repeated { &figures.frames_repeated } else { &figures.frames_drawn }.add();
                true
            }
            Err(LinkError::Full) => {
                figures.frames_dropped_link_full.add();
                false
            }
            Err(e) => {
                info!(error = %e, "the encoder has gone");
                self.detach();
                false
            }
        }
    }
}

fn background() -> Color32F {
    let [_, red, green, blue] = BACKGROUND.to_be_bytes().map(|channel| f32::from(channel) / 255.0);
    Color32F::new(red, green, blue, 1.0)
}

/// Draws what the slot lacks. False: it failed, and every slot will be drawn in full next time.
fn draw(
    renderer: &mut PixmanRenderer,
    drawings: &mut OutputDamageTracker,
    attached: &mut Attached,
    slot: u32,
    pieces: &[Piece<'_>],
) -> bool {
    let ring = &mut attached.ring;
    let age = ring.age(slot);
    let result =
        renderer.bind(ring.image(slot)).map_err(|e| e.to_string()).and_then(|mut target| {
            drawings
                .render_output(renderer, &mut target, age, pieces, background())
                .map(|result| result.damage.is_some())
                .map_err(|e| e.to_string())
        });
    match result {
        Ok(changed) => {
            if changed {
                ring.drawn(slot);
            }
            attached.drawing_failed = false;
            true
        }
        Err(e) => {
            ring.spoilt();
            if !std::mem::replace(&mut attached.drawing_failed, true) {
                warn!(error = %e, "drawing failed");
            } else {
                debug!(error = %e, "drawing failed again");
            }
            false
        }
    }
}
