//! The command line without a host: messages and exit codes.
mod cli_support;

use cli_support::Place;

const ASKING: [&[&str]; 8] = [
    &["pair"],
    &["pair", "id", "1234"],
    &["clients"],
    &["clients", "remove", "ab"],
    &["apps"],
    &["sessions"],
    &["sessions", "stop", "ab"],
    &["status"],
];

#[test]
fn without_a_host_every_question_says_so_and_what_to_do() {
    let place = Place::new();
    for arguments in ASKING {
        let ran = place.run(arguments);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.err.contains("no host runs here"), "{ran:?}");
        assert!(ran.err.contains("moonshard serve"), "{ran:?}");
        assert!(ran.out.is_empty(), "{ran:?}");
        let json = [arguments, &["--json"]].concat();
        let ran = place.run(&json);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.json()["error"].as_str().unwrap().contains("no host runs"), "{ran:?}");
    }
}

#[test]
fn the_socket_of_a_host_that_was_killed_counts_as_no_host() {
    let place = Place::new();
    std::fs::create_dir_all(place.runtime()).unwrap();
    drop(moonshard::proc::link::Link::listen(&place.runtime().join("admin.sock")).unwrap());
    let ran = place.run(&["apps"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("no host runs here"), "{ran:?}");
}

#[test]
fn an_unknown_key_is_refused_with_file_line_column_and_the_nearest_one() {
    let place = Place::new();
    place.configure("host_nam = \"x\"");
    for arguments in [["serve", ""], ["apps", ""], ["config", "check"], ["config", "print"]] {
        let arguments: Vec<&str> = arguments.into_iter().filter(|a| !a.is_empty()).collect();
        let ran = place.run(&arguments);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        let expected = format!(
            "moonshard: {}:3:1: unknown key `host_nam`; did you mean `host_name`?\n",
            place.config().display()
        );
        assert!(ran.err.starts_with(&expected), "{ran:?}");
    }
}

#[test]
fn a_file_that_is_no_configuration_is_refused_by_name() {
    let place = Place::new();
    let path = place.config();
    let name = path.display().to_string();
    let check = || place.run(&["config", "check"]);
    let refused = |words: &str| {
        let ran = check();
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(&name) && ran.err.contains(words), "{words}: {ran:?}");
    };
    std::fs::write(&path, [0; 64]).unwrap();
    refused("damaged");
    std::fs::write(&path, b"host_name = \"\xFF\"\n").unwrap();
    refused("not UTF-8");
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    refused("larger than 1 MiB");
    std::fs::remove_file(&path).unwrap();
    refused("cannot be read");
    std::fs::create_dir(&path).unwrap();
    refused("cannot be read");
}

#[test]
fn what_config_print_prints_is_what_it_reads() {
    let place = Place::new();
    place.configure("fec_percent = 7");
    let first = place.run(&["config", "print"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.out.contains("fec_percent = 7"), "{first:?}");
    std::fs::write(place.config(), &first.out).unwrap();
    let second = place.run(&["config", "print"]);
    assert_eq!((second.code, &second.out), (Some(0), &first.out));
    let json = place.run(&["config", "print", "--json"]).json();
    assert_eq!(json["fec_percent"], 7);
}

#[test]
fn config_check_names_the_file_and_what_the_machine_lacks() {
    let place = Place::new();
    let app =
        "[[apps]]\ntitle = \"A\"\ncommand = [\"no-such-program\"]\nimage = \"/no/such.png\"\n";
    let text = std::fs::read_to_string(place.config()).unwrap() + app;
    std::fs::write(place.config(), text).unwrap();
    let ran = place.run(&["config", "check"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("no program `no-such-program`"), "{ran:?}");
    assert!(ran.out.contains("/no/such.png does not exist"), "{ran:?}");
    assert!(ran.out.contains(&format!("{}: ok", place.config().display())), "{ran:?}");
}

#[test]
fn the_users_configuration_is_found_without_being_named() {
    let place = Place::new();
    let dir = place.dir.path().join("config/moonshard");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("moonshard.toml"), "host_name = \"found\"").unwrap();
    let output = place.command(&["config", "print"]).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("host_name = \"found\""));
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    let place = Place::new();
    for arguments in [&["pair", "id"][..], &["fly"], &["apps", "--no-such-flag"], &[]] {
        let output = place.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    let help = place.command(&["--help"]).output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    for command in ["serve", "pair", "clients", "apps", "sessions", "doctor", "config"] {
        assert!(help.contains(command), "{command}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
}

#[test]
fn the_doctor_examines_everything_and_its_exit_code_is_its_verdict() {
    let place = Place::new();
    let ran = place.run(&["doctor", "--json"]);
    let report = ran.json();
    let findings = report["findings"].as_array().unwrap();
    let about: Vec<&str> = findings.iter().map(|f| f["name"].as_str().unwrap()).collect();
    for name in [
        "io_uring",
        "memlock",
        "open files",
        "cores",
        "ports",
        "encoder",
        "render node",
        "NVIDIA driver",
        "sound server",
        "terminal",
        "uinput",
        "uhid",
    ] {
        assert!(about.contains(&name), "{name}: {about:?}");
    }
    let prevented = findings
        .iter()
        .any(|f| f["needed"].as_bool().unwrap() && f["state"].as_str().unwrap() != "ok");
    assert_eq!(report["ok"].as_bool(), Some(!prevented));
    assert_eq!(ran.code, Some(i32::from(prevented)));
    let people = place.run(&["doctor"]);
    assert_eq!(people.code, ran.code);
    assert!(people.out.lines().all(|line| line.chars().count() <= 80), "{}", people.out);
    assert!(!people.out.contains('\x1b'), "no colours where nobody looks");
}

#[test]
fn internal_kinds_of_process_refuse_to_be_started_by_hand() {
    let place = Place::new();
    for kind in ["front", "session", "encoder"] {
        let output = place.command(&[kind]).output().unwrap();
        assert!(!output.status.success(), "{kind}");
    }
}
