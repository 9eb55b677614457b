//! The binary: hands over to `cli`.
fn main() -> std::process::ExitCode {
    let code = moonshard::cli::main();
    moonshard::ops::out::flush();
    code
}
