//! Who goes first when memory is short: the app before an encoder, an encoder before its session.

/// The score of this process, -1000..=1000; 0 if unknown.
pub fn own() -> i32 {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Sets another process's score; best effort.
pub fn set(pid: u32, score: i32) {
    let score = score.min(1000);
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
}
