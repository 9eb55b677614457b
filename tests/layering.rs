//! The rings of the code, kept by a test: who may name what, how long a file may be, what it starts with.
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 800;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&root.join("src"), &mut found);
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
    let all: Vec<_> = found.iter().map(|p| (name(p), fs::read_to_string(p).unwrap())).collect();
    assert!(all.len() > 30, "the sources were not found");
    all
}

/// Files that are compiled for tests only.
fn test_only(name: &str) -> bool {
    name.ends_with("tests.rs") || name.ends_with("vectors.rs")
}

/// Lines of code: comments and tests at the end of a file do not count.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn offenders(allowed: &[&str], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let bound = |name: &str| !test_only(name) && !allowed.iter().any(|a| name.starts_with(a));
    for (name, text) in all().iter().filter(|(name, _)| bound(name)) {
        for (number, line) in code(text) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

fn none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}\n{}", found.join("\n"));
}

#[test]
fn each_outside_thing_is_named_in_one_place() {
    none(&offenders(&["src/shard"], &["glommio::"]), "only shard names glommio");
    none(
        &offenders(&["src/media", "src/encoder"], &["gstreamer::", "gstreamer_", "gst::"]),
        "only media and encoder name GStreamer",
    );
    none(&offenders(&["src/desktop"], &["smithay::"]), "only desktop names smithay");
    none(&offenders(&["src/tls", "src/shard"], &["rustls::"]), "only tls and shard name rustls");
    none(&offenders(&["src/audio"], &["libpulse_", "opusic_"]), "only audio names Pulse and Opus");
    none(&offenders(&["src/session"], &["rusty_enet::"]), "only session names the ENet crate");
}

#[test]
fn the_pure_ring_touches_nothing() {
    let pure = |name: &str| {
        let pure = [
            "src/proto",
            "src/host",
            "src/config",
            "src/fuzz",
            "src/ipc.rs",
            "src/limits.rs",
            "src/time.rs",
            "src/session/life",
        ];
        pure.iter().any(|p| name.starts_with(p))
    };
    let banned = [
        "std::fs",
        "std::thread",
        "std::time::Instant",
        "SystemTime",
        "std::net::Tcp",
        "std::net::Udp",
        "UnixStream",
        "rustix::",
        "libc::",
        "socket2",
        "Mutex",
        "async fn",
        "crate::proc",
        "crate::shard",
        "crate::media",
        "crate::desktop",
        "crate::net",
        "crate::front",
        "crate::supervisor",
        "crate::cli",
        "crate::audio",
        "HashMap",
        "HashSet",
    ];
    let mut found = Vec::new();
    for (name, text) in all().iter().filter(|(name, _)| pure(name) && !test_only(name)) {
        for (number, line) in code(text) {
            if banned.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none(&found, "the pure ring does no IO, reads no clock and has ordered maps only");
}

#[test]
fn every_file_says_what_it_is_and_stays_readable() {
    let mut found = Vec::new();
    for (name, text) in all() {
        if !text.starts_with("//!") && !text.starts_with("#!") {
            found.push(format!("{name}: does not begin with //!"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{name}: {lines} lines"));
        }
        for word in ["TODO", "FIXME", "XXX", "(to be written)"] {
            if text.contains(word) {
                found.push(format!("{name}: {word}"));
            }
        }
    }
    none(&found, "files are described, short and finished");
}

#[test]
fn the_front_never_initialises_a_media_library() {
    none(
        &offenders(&["src/media", "src/encoder"], &["gst::init", "gstreamer::init"]),
        "gst::init is for encoders and probes",
    );
    let front: Vec<_> = all()
        .into_iter()
        .filter(|(n, _)| n.starts_with("src/front") || n.starts_with("src/shard"))
        .collect();
    assert!(!front.is_empty());
    for (name, text) in front {
        for word in
            ["crate::media", "crate::encoder", "crate::desktop", "crate::audio", "spawn_blocking"]
        {
            assert!(code(&text).all(|(_, line)| !line.contains(word)), "{name} names {word}");
        }
    }
}

/// Documents promise tests by name; each must be there.
#[test]
fn every_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests", "loadtest"] {
        sources(&root.join(folder), &mut found);
    }
    let code: String = found.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut missing = Vec::new();
    for document in ["docs/faults.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let tests: Vec<_> = words.filter(|word| word.matches('_').count() >= 4).collect();
        assert!(!tests.is_empty(), "{document} names no tests");
        // As functions, or as names that a program with a main of its own gives its tests.
        let is_there = |test: &str| {
            code.contains(&format!("fn {test}(")) || code.contains(&format!("\"{test}\""))
        };
        missing.extend(tests.into_iter().filter(|t| !is_there(t)).map(str::to_owned));
    }
    none(&missing, "documents name tests that are not there");
}
