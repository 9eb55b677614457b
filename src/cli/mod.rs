//! (to be written)
pub fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("front") => crate::front::main(),
        Some("session") => crate::session::main(),
        Some("encoder") => crate::encoder::main(),
        Some("pattern") => crate::pattern::main(),
        Some("probe") => crate::media::probe(),
        _ => std::process::ExitCode::from(2),
    }
}
