//! The documented configuration is the one that holds.
use moonshard::config::{Config, Surroundings};

fn surroundings() -> Surroundings {
    Surroundings {
        root: true,
        host_name: "gamebox".into(),
        cores: vec![0, 1],
        ..Surroundings::default()
    }
}

fn documented() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/moonshard.toml");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let config = Config::parse(&documented(), &surroundings()).unwrap();
    assert_eq!(config, Config::parse("", &surroundings()).unwrap());
}

#[test]
fn every_key_is_documented() {
    let printed = Config::parse("external_ip = \"203.0.113.7\"", &surroundings()).unwrap();
    let table: toml::Table = printed.to_toml().unwrap().parse().unwrap();
    let documented = documented();
    let is_there = |key: &str| {
        documented.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{key} =")) || line == format!("[{key}]")
        })
    };
    for (key, value) in &table {
        if key != "apps" {
            assert!(is_there(key), "{key}");
        }
        for key in value.as_table().into_iter().flat_map(toml::Table::keys) {
            assert!(is_there(key), "{key}");
        }
    }
}

#[test]
fn every_commented_default_can_be_switched_on() {
    let text = documented();
    for key in ["host_name", "state_dir", "runtime_dir", "external_ip"] {
        let on = text.replace(&format!("# {key} ="), &format!("{key} ="));
        assert_ne!(on, text, "{key}");
        Config::parse(&on, &surroundings()).unwrap();
    }
}
