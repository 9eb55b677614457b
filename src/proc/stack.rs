//! Where a thread of this process stands: the thread itself tells, from the handler of a signal.
//!
//! For a thread that no longer does its work, and only then: the handler walks the stack by the
//! unwinder, which takes no lock on today's systems (glibc 2.35, GCC 12), but might on older ones.
#![expect(unsafe_code, reason = "a signal, its handler and the walk within it")]
use std::io;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Used for nothing else here, and harmless: the handler changes nothing that the thread can see.
const SIGNAL: libc::c_int = libc::SIGPROF;
/// Calls that are told at most, innermost first.
const FRAMES_MAX: usize = 64;
/// A thread that does not answer in this time is in the kernel for good, or stopped.
const ANSWER_MAX: Duration = Duration::from_millis(100);
/// No answer yet.
const NONE_YET: usize = usize::MAX;

/// Who is asked; zero: nobody.
static ASKED: AtomicI32 = AtomicI32::new(0);
static FRAMES: [AtomicUsize; FRAMES_MAX] = [const { AtomicUsize::new(0) }; FRAMES_MAX];
static COUNT: AtomicUsize = AtomicUsize::new(NONE_YET);

/// The calls that a thread is in, innermost first, as addresses; [`describe`] names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack(Vec<usize>);

/// Makes it possible to ask. Once per process, before [`of`].
///
/// # Errors
/// The system's.
pub fn install() -> io::Result<()> {
    // SAFETY: a zeroed sigaction is a valid one; `tell` only does what a handler may.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = tell as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks a thread of this process. None: it does not answer, or does not exist.
pub fn of(thread: i32) -> Option<Stack> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    COUNT.store(NONE_YET, Ordering::Release);
    ASKED.store(thread, Ordering::Release);
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: sends a signal whose handler is installed; a thread that is gone is an error.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGNAL) } == 0;
    let deadline = Instant::now() + ANSWER_MAX;
    while sent && COUNT.load(Ordering::Acquire) == NONE_YET && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    // An answer that comes later is not mistaken for the next one's.
    ASKED.store(0, Ordering::Release);
    let count = Some(COUNT.load(Ordering::Acquire)).filter(|count| *count != NONE_YET)?;
    let frames = FRAMES.iter().take(count).map(|frame| frame.load(Ordering::Relaxed));
    Some(Stack(frames.collect()))
}

/// The signal's handler: no allocation, no lock of ours.
extern "C" fn tell(_signal: libc::c_int) {
    // SAFETY: errno is this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    if ASKED.load(Ordering::Acquire) == rustix::thread::gettid().as_raw_nonzero().get() {
        let mut count = 0;
        // SAFETY: without the crate's own lock, which is another thread's perhaps; nothing is
        // resolved here, and one thread at a time is asked.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                FRAMES[count].store(frame.ip() as usize, Ordering::Relaxed);
                count += 1;
                count < FRAMES_MAX
            });
        }
        COUNT.store(count, Ordering::Release);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// A line for each call: function, file and line as far as this binary knows them. Takes its time and
/// memory: call it where nobody waits.
pub fn describe(stack: &Stack) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for address in &stack.0 {
        let first = lines.len();
        backtrace::resolve(*address as *mut std::ffi::c_void, |symbol| {
            let Some(name) = symbol.name() else { return };
            let at = match (symbol.filename().and_then(|path| path.file_name()), symbol.lineno()) {
                (Some(file), Some(line)) => format!(" ({}:{line})", file.to_string_lossy()),
                _ => String::new(),
            };
            lines.push(format!("{name:#}{at}"));
        });
        if lines.len() == first {
            lines.push(format!("{address:#x}"));
        }
    }
    // The handler's own calls, and the kernel's way into it.
    let own = lines.iter().rposition(|line| line.contains("stack::tell")).map_or(0, |at| at + 2);
    lines.drain(..own.min(lines.len()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    static GO_ON: AtomicBool = AtomicBool::new(true);

    #[inline(never)]
    fn a_place_to_stand(here: &AtomicI32) {
        here.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
        while GO_ON.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_thread_tells_where_it_stands_and_goes_on() {
        install().unwrap();
        let thread = std::sync::Arc::new(AtomicI32::new(0));
        let here = std::sync::Arc::clone(&thread);
        let standing = std::thread::spawn(move || a_place_to_stand(&here));
        while thread.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        // On a busy machine it may not get to it in time.
        let stack = (0..100).find_map(|_| of(thread.load(Ordering::Acquire))).unwrap();
        let lines = describe(&stack);
        // What is inlined into it comes before it.
        let told = lines.iter().take(5).any(|line| line.contains("a_place_to_stand"));
        assert!(told, "{lines:#?}");
        GO_ON.store(false, Ordering::Release);
        standing.join().unwrap();
        assert_eq!(of(i32::MAX), None, "nobody");
    }
}
