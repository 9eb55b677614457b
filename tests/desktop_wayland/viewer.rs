//! A desktop in a directory of its own, and the encoder's end of its frame link.
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use moonshard::desktop::{self, Desktop, DesktopCommand, DesktopConfig, Ring};
use moonshard::ipc::{FrameNote, RingSpec};
use moonshard::proc::link::{Link, LinkError};
use moonshard::proto::input::InputEvent;
use moonshard::proto::stream::Mode;

/// Longest wait for anything; far beyond what a slow machine needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const MODE: Mode = Mode { width: 320, height: 200, millihertz: 60_000 };

/// A running desktop and its directory.
pub struct Host {
    pub desktop: Desktop,
    pub directory: tempfile::TempDir,
}

impl Host {
    pub fn start() -> Self {
        Self::with(MODE, "us", "")
    }

    pub fn with(mode: Mode, layout: &str, variant: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = DesktopConfig {
            runtime_dir: directory.path().to_owned(),
            mode,
            keyboard_layout: layout.into(),
            keyboard_variant: variant.into(),
            idle_fps: 10,
        };
        Self { desktop: desktop::start(config).unwrap(), directory }
    }

    pub fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join(self.desktop.wayland_display())
    }

    pub fn input(&self, event: InputEvent) {
        self.desktop.send(DesktopCommand::Input(event)).unwrap();
    }

    /// An encoder with a new ring.
    pub fn attach(&self, width: u16, height: u16) -> Encoder {
        let (ours, theirs) = Link::pair().unwrap();
        let ring = Ring::create(width, height).unwrap();
        let encoder = Encoder::new(theirs, &ring);
        self.desktop.send(DesktopCommand::Attach { frames: ours, ring }).unwrap();
        encoder
    }

    /// The figure, once it satisfies the condition.
    pub fn figure_when(&self, name: &str, condition: impl Fn(f64) -> bool) -> f64 {
        let start = Instant::now();
        loop {
            let value = self.desktop.figures()[name];
            if condition(value) {
                return value;
            }
            assert!(start.elapsed() < PATIENCE, "{name} is {value}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// An encoder that looks at frames instead of encoding them. It reads the slots through their file
/// descriptors, as another process would.
pub struct Encoder {
    pub link: Link,
    pub spec: RingSpec,
    slots: Vec<File>,
}

impl Encoder {
    fn new(link: Link, ring: &Ring) -> Self {
        let own = |fd: std::os::fd::BorrowedFd<'_>| File::from(fd.try_clone_to_owned().unwrap());
        Self { link, spec: ring.spec(), slots: ring.fds().into_iter().map(own).collect() }
    }

    /// The next note, if one comes in time.
    pub fn note_within(&self, wait: Duration) -> Option<FrameNote> {
        let mut buffer = [0; 64];
        let end = Instant::now() + wait;
        loop {
            match self.link.receive_bytes(&mut buffer) {
                Ok((length, _)) => return Some(FrameNote::from_bytes(&buffer[..length]).unwrap()),
                Err(LinkError::Empty) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(LinkError::Empty) => return None,
                Err(e) => panic!("{e}"),
            }
        }
    }

    pub fn note(&self) -> FrameNote {
        self.note_within(PATIENCE).expect("a frame in time")
    }

    pub fn give_back(&self, note: FrameNote) {
        self.link.send_bytes(&note.to_bytes(), &[]).unwrap();
    }

    pub fn picture(&self, note: FrameNote) -> Picture {
        let mut bytes = vec![0; self.spec.slot_bytes()];
        self.slots[note.slot as usize].read_exact_at(&mut bytes, 0).unwrap();
        Picture { width: self.spec.width as usize, height: self.spec.height as usize, bytes }
    }

    /// Watches, giving back each slot, until a picture satisfies the condition.
    pub fn picture_when(&self, what: &str, condition: impl Fn(&Picture) -> bool) -> Picture {
        let start = Instant::now();
        loop {
            let note = self.note();
            let picture = self.picture(note);
            self.give_back(note);
            if condition(&picture) {
                return picture;
            }
            if start.elapsed() > PATIENCE {
                picture.write_png(Path::new("/tmp/moonshard-desktop-failed.png"));
                panic!("no picture with {what}; the last is /tmp/moonshard-desktop-failed.png");
            }
        }
    }
}

impl AsFd for Encoder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.link.as_fd()
    }
}

/// One frame, BGRx.
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub bytes: Vec<u8>,
}

impl Picture {
    /// 0xRRGGBB.
    pub fn at(&self, x: usize, y: usize) -> u32 {
        let at = (y * self.width + x) * 4;
        let [b, g, r, _] = self.bytes[at..at + 4] else { unreachable!() };
        u32::from(r) << 16 | u32::from(g) << 8 | u32::from(b)
    }

    pub fn is(&self, colour: u32) -> bool {
        (0..self.height).all(|y| (0..self.width).all(|x| self.at(x, y) == colour))
    }

    /// How many pixels have this colour.
    pub fn count(&self, colour: u32) -> usize {
        (0..self.width * self.height)
            .filter(|i| self.at(i % self.width, i / self.width) == colour)
            .count()
    }

    pub fn write_png(&self, path: &Path) {
        let file = File::create(path).unwrap();
        let mut encoder = png::Encoder::new(file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        let pixels: Vec<u8> = self.bytes.chunks(4).flat_map(|p| [p[2], p[1], p[0]]).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    }
}
