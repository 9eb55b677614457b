//! What is kept of a process before it is killed, or after it has died: for whoever has to find out why.
//!
//! It is gathered in memory, from what the kernel tells without asking the process, so that gathering
//! cannot wait for what hangs; and written by a thread of its own, so that no disk can either. The
//! newest files stay, bounded in number and size. No secret is in them: events are log lines.
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Files that stay.
const FILES_MAX: usize = 20;
/// Bytes of one file.
const FILE_BYTES_MAX: usize = 256 * 1024;
/// Threads of a process that are described.
const THREADS_MAX: usize = 64;
/// Files that may wait for a disk at once; more are dropped with a word in the log.
const WRITERS_MAX: usize = 4;

/// Where it is kept.
#[derive(Debug)]
pub struct Evidence {
    directory: PathBuf,
    writers: Arc<AtomicUsize>,
    /// Tells files of one second apart.
    count: AtomicUsize,
}

impl Evidence {
    /// `state`: the host's state directory.
    pub fn new(state: &Path) -> Self {
        Self { directory: state.join("crash"), writers: Arc::default(), count: AtomicUsize::new(0) }
    }

    /// Keeps `text` about a process of a `kind` ("front", "session"), because of `reason`. Returns at
    /// once, with the file that will hold it.
    pub fn keep(&self, kind: &str, pid: u32, reason: &str, text: &str) -> PathBuf {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let count = self.count.fetch_add(1, Ordering::Relaxed) % 10_000;
        let path = self.directory.join(format!("{seconds}-{count:04}-{kind}-{pid}.txt"));
        let mut whole =
            format!("moonshard {} {kind} {pid}: {reason}\n{text}", env!("CARGO_PKG_VERSION"));
        let mut end = whole.len().min(FILE_BYTES_MAX);
        while !whole.is_char_boundary(end) {
            end -= 1;
        }
        whole.truncate(end);
        if self.writers.fetch_add(1, Ordering::Relaxed) >= WRITERS_MAX {
            self.writers.fetch_sub(1, Ordering::Relaxed);
            tracing::error!(kind, pid, "evidence was dropped: the disk does not keep up");
            return path;
        }
        let (writers, file) = (Arc::clone(&self.writers), path.clone());
        let write = move || {
            if let Err(error) = write(&file, &whole) {
                tracing::error!(path = %file.display(), %error, "evidence was not written");
            }
            writers.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = std::thread::Builder::new().name("evidence".into()).spawn(write) {
            self.writers.fetch_sub(1, Ordering::Relaxed);
            tracing::error!(%error, "evidence was not written");
        }
        path
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
    let options =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).clone();
    options.open(path)?.write_all(text.as_bytes())?;
    // Their names begin with the time: the oldest come first, for the next 250 years.
    let mut files: Vec<PathBuf> = fs::read_dir(directory)?.flatten().map(|e| e.path()).collect();
    files.sort();
    let too_many = files.len().saturating_sub(FILES_MAX);
    files.iter().take(too_many).for_each(|old| super::directory::remove(old));
    Ok(())
}

/// What the kernel tells of a living process's threads: name, state, and where in the kernel it waits.
/// None of it needs the process to answer or its memory to be free.
pub fn threads(pid: u32) -> String {
    let mut text = String::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks.take(THREADS_MAX) {
        let read = |name| {
            let text = fs::read_to_string(task.path().join(name)).unwrap_or_default();
            text.trim_end().to_owned()
        };
        let stat = read("stat");
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
        let id = task.file_name();
        let _ = writeln!(
            text,
            "thread {} {} state={state} wchan={} syscall={}",
            id.to_string_lossy(),
            read("comm"),
            read("wchan"),
            read("syscall")
        );
        // For root only.
        read("stack").lines().for_each(|line| _ = writeln!(text, "    {line}"));
    }
    text
}

/// Whether the main thread of a process waits for a core: ready to run, and no time on one since the
/// last look. `last` keeps that time from look to look.
pub fn is_starved(pid: u32, last: &mut u64) -> bool {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{pid}/{name}"));
    let ready = read("stat")
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R')));
    let ran = read("schedstat").ok().and_then(|s| s.split(' ').next()?.parse().ok()).unwrap_or(0);
    let before = std::mem::replace(last, ran);
    ready && ran == before
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn the_newest_files_stay_and_none_is_too_large() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::new(dir.path());
        let count = || fs::read_dir(dir.path().join("crash")).map_or(0, Iterator::count);
        let idle = || {
            let deadline = Instant::now() + Duration::from_secs(60);
            while evidence.writers.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let mut last = PathBuf::new();
        for pid in 0..FILES_MAX as u32 + 5 {
            last = evidence.keep("front", 100_000 + pid, "a test", &"ä".repeat(FILE_BYTES_MAX));
            idle();
        }
        assert_eq!(count(), FILES_MAX);
        let text = fs::read_to_string(last).unwrap();
        assert!(text.len() <= FILE_BYTES_MAX && text.starts_with("moonshard "), "{}", text.len());
        assert!(text.contains("front 100024: a test\n"));
    }

    #[test]
    fn the_kernel_tells_what_a_thread_waits_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut ran = 0;
        let waits = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            threads(child.id()).contains("sleep state=S")
        });
        is_starved(child.id(), &mut ran);
        let starved = is_starved(child.id(), &mut ran);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(waits && !starved);
        assert_eq!(threads(u32::MAX), "");
    }
}
