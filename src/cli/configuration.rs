//! Finding and reading the configuration file; `moonshard config check` and `print`.
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{ConfigAction, EXIT_USAGE};
use crate::config::Config;
use crate::ops::machine;

/// A longer file is not a configuration, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A configuration and where it came from.
pub struct Loaded {
    pub config: Config,
    /// None: there is no file, the defaults hold.
    pub file: Option<PathBuf>,
}

/// Reads the configuration that holds: the given file, else the user's, else the machine's, else
/// the defaults.
///
/// # Errors
/// In words: the file, the place in it, and what to do.
pub fn load(given: Option<&Path>) -> Result<Loaded, String> {
    let file = given.map(Path::to_owned).or_else(usual_file);
    let text = file.as_deref().map(read).transpose()?.unwrap_or_default();
    match Config::parse(&text, &machine::surroundings()) {
        Ok(config) => Ok(Loaded { config, file }),
        Err(error) => Err(match (&file, error.place) {
            // "file:line:column: ..." is what editors and people can follow.
            (Some(file), Some(_)) => format!("{}:{error}", file.display()),
            (Some(file), None) => format!("{}: {error}", file.display()),
            (None, _) => error.to_string(),
        }),
    }
}

fn usual_file() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let own = home.map(|home| home.join("moonshard/moonshard.toml"));
    let all = Some(PathBuf::from("/etc/moonshard/moonshard.toml"));
    // One that is there but cannot be read is an error, not a reason to take the next.
    [own, all].into_iter().flatten().find(|file| file.symlink_metadata().is_ok())
}

fn read(path: &Path) -> Result<String, String> {
    let open = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = open().map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{}: larger than 1 MiB: not a configuration", path.display()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        format!("{}:{}:1: not UTF-8: the file is damaged", path.display(), line + 1)
    })
}

/// Says why the configuration cannot be used.
pub fn refuse(error: &str, json: bool) -> ExitCode {
    if json {
        println!("{}", serde_json::json!({ "error": error }));
    } else {
        eprintln!("moonshard: {error}");
    }
    ExitCode::from(EXIT_USAGE)
}

/// `moonshard config check` and `moonshard config print`.
pub fn run(action: ConfigAction, given: Option<&Path>, json: bool) -> ExitCode {
    let loaded = match load(given) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error, json),
    };
    match action {
        ConfigAction::Print if json => match serde_json::to_string_pretty(&loaded.config) {
            Ok(text) => println!("{text}"),
            Err(error) => return refuse(&error.to_string(), json),
        },
        ConfigAction::Print => match loaded.config.to_toml() {
            Ok(text) => print!("{text}"),
            Err(error) => return refuse(&error, json),
        },
        ConfigAction::Check => return check(&loaded, json),
    }
    ExitCode::SUCCESS
}

/// What only the machine can tell: that the programs and files which it names exist.
fn check(loaded: &Loaded, json: bool) -> ExitCode {
    let mut warnings = Vec::new();
    for app in &loaded.config.apps {
        let title = &app.spec.title;
        let program = app.spec.command.first().map_or("", String::as_str);
        if program != "moonshard" && !exists(program) {
            warnings.push(format!("app `{title}`: no program `{program}` here"));
        }
        for path in [&app.spec.directory, &app.image].into_iter().flatten() {
            if !path.exists() {
                warnings.push(format!("app `{title}`: {} does not exist", path.display()));
            }
        }
    }
    let file = loaded.file.as_ref().map(|file| file.display().to_string());
    if json {
        println!("{}", serde_json::json!({ "ok": true, "file": file, "warnings": warnings }));
        return ExitCode::SUCCESS;
    }
    for warning in &warnings {
        println!("warning: {warning}");
    }
    match file {
        Some(file) => println!("{file}: ok"),
        None => println!("ok: there is no file, so the defaults hold"),
    }
    ExitCode::SUCCESS
}

fn exists(program: &str) -> bool {
    match program.contains('/') {
        true => Path::new(program).exists(),
        false => machine::program(program).is_some(),
    }
}
