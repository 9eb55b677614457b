//! Defaults, refusals with their place in the file, and that printing reads back the same.
use super::*;

fn around() -> Surroundings {
    Surroundings {
        root: true,
        host_name: "gamebox".into(),
        cores: vec![0, 1, 2, 3],
        ..Surroundings::default()
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, &around())
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_empty_text_gives_the_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.host_name, "gamebox");
    assert_eq!(config.ports, Ports::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.state_dir.to_str(), Some("/var/lib/moonshard"));
    assert_eq!(config.runtime_dir.to_str(), Some("/run/moonshard"));
    let titles: Vec<_> = config.apps.iter().map(|app| app.spec.title.as_str()).collect();
    assert_eq!(titles, ["Desktop", "Test pattern"]);
    assert!(config.apps.iter().all(|app| app.spec.id > 0));
}

#[test]
fn the_users_directories_win_also_for_root() {
    let around =
        Surroundings { state_home: Some("/s".into()), runtime_home: Some("/r".into()), ..around() };
    let config = Config::parse("", &around).unwrap();
    assert_eq!(config.state_dir.to_str(), Some("/s/moonshard"));
    assert_eq!(config.runtime_dir.to_str(), Some("/r/moonshard"));
}

#[test]
fn an_ordinary_user_needs_a_runtime_directory_and_is_told_how_to_get_one() {
    let around = Surroundings { root: false, home: Some("/home/a".into()), ..around() };
    let error = Config::parse("", &around).unwrap_err();
    assert_eq!(error.place, None);
    assert!(error.message.contains("XDG_RUNTIME_DIR"), "{error}");
    assert!(error.message.contains("runtime_dir"), "{error}");
    let config = Config::parse("runtime_dir = \"/run/user/7/m\"", &around).unwrap();
    assert_eq!(config.state_dir.to_str(), Some("/home/a/.local/state/moonshard"));
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_one() {
    let error = parse("mdns = true\n\n[ports]\n  htps = 1\n").unwrap_err();
    assert_eq!(error.place, Some((4, 3)));
    assert_eq!(error.message, "unknown key `htps`; did you mean `https`?");
    assert!(error.to_string().ends_with("\n  4 |   htps = 1\n    |   ^^^^"), "{error}");
    let far = refused("[cores]\nwhatever_this_is = 1");
    assert!(
        far.contains("2:1: unknown key") && far.contains("known here: control, media"),
        "{far}"
    );
    assert!(refused("[[apps]]\ntitle='x'\ncommand=['x']\nimages='/x'").contains("`image`?"));
    assert!(refused("prots = 1").contains("did you mean `ports`?"));
}

#[test]
fn wrong_types_and_ranges_are_refused_with_their_place() {
    for (text, place, words) in [
        ("[ports]\nhttp = 70000", (2, 8), "70000 is out of range: 0 to 65535"),
        ("[ports]\nhttp = \"x\"", (2, 8), "must be a whole number"),
        ("mdns = 1", (1, 8), "must be true or false"),
        ("ports = 1", (1, 9), "must be a table"),
        ("fec_percent = -1", (1, 15), "0 to 255"),
        ("fec_percent = 256", (1, 15), "0 to 255"),
        ("external_ip = \"::1\"", (1, 15), "IPv4"),
        ("state_dir = \"x\"", (1, 13), "absolute"),
        ("host_name = \"\"", (1, 13), "1 to 63 bytes"),
        ("host_name = \"a\\u0007\"", (1, 13), "control characters"),
        ("[cores]\ncontrol = [0, 9]", (2, 15), "core 9 does not exist"),
        ("[cores]\nmedia = [1, 1]", (2, 13), "twice"),
        ("[limits]\nhandshake_ms = 0", (2, 16), "100 to 600000"),
        ("[limits]\nhead_ms = 200", (2, 11), "cannot be smaller"),
        ("[limits]\nsessions = 1000", (2, 12), "1 to 256"),
        ("[ports]\nhttp = 47984", (2, 8), "http and https cannot both have port 47984"),
        ("[session]\nencoder = \"a b\"", (2, 11), "short name"),
        ("[session]\nidle_fps = 1.5", (2, 12), "must be a whole number"),
        ("a = 1\na = 2", (2, 1), "twice"),
        ("x = ", (1, 5), ""),
        ("[[apps]]\ntitle = \"x\"", (1, 1), "`command` is missing"),
        ("[[apps]]\ntitle = \"x\"\ncommand = []", (3, 11), "must name a program"),
        ("[[apps]]\ntitle = \"x\"\ncommand = [\"y\"]\nid = 0", (4, 6), "1 to 2147483647"),
        ("mdns = true\0", (1, 12), "damaged"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.message.contains(words), "{text:?}: {error}");
        assert_eq!(error.place, Some(place), "{text:?}: {error}");
    }
}

#[test]
fn two_apps_with_one_title_or_one_id_are_refused() {
    let app = |title, id| format!("[[apps]]\ntitle = \"{title}\"\ncommand = [\"true\"]\n{id}\n");
    let twice = format!("{}{}", app("A", ""), app("A", ""));
    assert!(refused(&twice).contains("6:9: there are two apps with the title `A`"));
    let ids = format!("{}{}", app("A", "id = 7"), app("B", "id = 7"));
    assert!(refused(&ids).contains("two apps with the id 7"));
}

#[test]
fn app_ids_are_stable_positive_and_make_room_for_explicit_ones() {
    // CRC-32 of "123456789" is 0xCBF43926, the check value of its definition.
    let one = parse("[[apps]]\ntitle = \"123456789\"\ncommand = [\"x\"]").unwrap();
    let id = one.apps[0].spec.id;
    assert_eq!(id, 0x4BF4_3926);
    let text = format!(
        "[[apps]]\ntitle = \"123456789\"\ncommand = [\"x\"]\n\
         [[apps]]\ntitle = \"B\"\nid = {id}\ncommand = [\"x\"]"
    );
    let two = parse(&text).unwrap();
    assert_eq!((two.apps[0].spec.id, two.apps[1].spec.id), (id + 1, id));
}

#[test]
fn what_is_printed_parses_back_to_the_same() {
    let text = r#"
host_name = "Büro \"1\""
external_ip = "203.0.113.7"
mdns = false
fec_percent = 0
[ports]
https = 0
video = 50000
[cores]
control = [1]
media = [2, 3]
[session]
keep_ms = 60000
encoder = "x264enc"
audio = false
[[apps]]
title = "Game <&> 'x'"
command = ["/usr/bin/game", "--full screen"]
environment = { LANG = "C.UTF-8", "A.B" = "" }
directory = "/srv"
image = "/srv/a b.png"
[[apps]]
title = "Other"
id = 5
command = ["other"]
"#;
    for text in ["", text] {
        let config = parse(text).unwrap();
        assert_eq!(parse(&config.to_toml().unwrap()).unwrap(), config);
    }
}

#[test]
fn a_runtime_directory_too_long_for_sockets_is_refused() {
    let long = refused(&format!("runtime_dir = \"/{}\"", "x".repeat(80)));
    assert!(long.contains("1:15") && long.contains("shorter path"), "{long}");
}

#[test]
fn no_text_makes_it_panic() {
    let good = parse("").unwrap().to_toml().unwrap();
    for end in 0..good.len() {
        let _ = good.get(..end).map(parse);
        let mut broken = good.clone().into_bytes();
        broken[end] ^= 0x15;
        let _ = String::from_utf8(broken).map(|text| parse(&text).map_err(|e| e.to_string()));
    }
}
