//! The files in `config/`.

use super::*;
use crate::config::key::{BUSES, KeyDefault};
use crate::config::sections::KEYS;

/// What a reload applies: whole sections, then single keys.
fn reloadable() -> Vec<&'static str> {
    let section = |name: &'static str| name.split('.').next().unwrap_or_default();
    let is_whole = |of: &str| KEYS.iter().filter(|key| section(&key.name) == of).all(|key| key.reloadable);
    let reloadable = KEYS.iter().filter(|key| key.reloadable).map(|key| key.name.as_str());
    let (mut whole, single): (Vec<_>, Vec<_>) = reloadable.partition(|name| is_whole(section(name)));
    whole.iter_mut().for_each(|name| *name = section(name));
    whole.dedup();
    [whole, single].concat()
}

fn reference() -> String {
    let mut text = String::from(
        "# Every key with its default. What begins with # and no blank is optional, an example, or the\n\
         # default of a bus that is not in use: keys of such a bus may stay, so that one file serves several\n\
         # machines, each with its own TERRA_BRIDGE_BUS. Each key has an environment variable: server.listen is\n\
         # TERRA_BRIDGE_SERVER__LISTEN. References to secrets: env:NAME, file:PATH, credential:NAME.\n",
    );
    text += &format!(
        "# SIGHUP takes over {};\n\
         # the rest takes effect at the next start. Files of signing secrets, of embedded.token and of certificates are\n\
         # looked at by themselves.\n",
        reloadable().join(", ")
    );
    let mut table = "";
    for key in KEYS.iter() {
        let name = key.name.replace("<name>", "terra");
        let of_bus = name.starts_with("kafka.") || name.starts_with("nats.");
        let top = key.name.rsplit_once('.').map_or("", |(table, _)| table);
        if top != table {
            table = top;
            let off = if of_bus { "#" } else { "" };
            text += &format!("\n{off}[{}]\n", name.rsplit_once('.').map_or("", |(table, _)| table));
        }
        let off = match key.default {
            KeyDefault::Value(_) | KeyDefault::ValueOfTerra(_) if !of_bus => "",
            _ => "#",
        };
        let leaf = match key.name.rsplit('.').next().unwrap() {
            "<type>" => "daily",
            "<key>" if top.ends_with("properties") => "linger.ms",
            "<key>" => "retention.ms",
            leaf => leaf,
        };
        text += &format!("# {}\n{off}{leaf} = {}\n", key.doc, key.toml);
    }
    text
}

#[test]
fn the_reference_file_names_every_key_with_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/terra-bridge.toml");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, reference(), "write this into config/terra-bridge.toml:\n{}", reference());
    let (as_written, empty) = (from_file(&text).unwrap().config, from_file("").unwrap().config);
    assert_eq!(format!("{as_written:?}"), format!("{empty:?}"));
}

#[test]
fn the_commented_keys_of_each_bus_are_keys_with_their_defaults() {
    for (bus, needed) in [
        ("kafka", ("TERRA_BRIDGE_KAFKA__BROKERS", "localhost:9092")),
        ("nats", ("TERRA_BRIDGE_NATS__SERVERS", "nats://localhost:4222")),
    ] {
        let text = reference();
        let (_, section) = text.split_once(&format!("\n#[{bus}]\n")).unwrap();
        let (section, _) = section.split_once("\n\n").unwrap();
        let is_default = |leaf: &str| {
            let mut keys = KEYS.iter().filter(|key| key.name == format!("{bus}.{leaf}"));
            keys.any(|key| !matches!(key.default, KeyDefault::Unset(_)))
        };
        let given = section.lines().filter_map(|line| line.strip_prefix('#'));
        let given = given.filter(|line| line.split_once(" = ").is_some_and(|(leaf, _)| is_default(leaf)));
        let toml = format!("bus = {bus:?}\n[{bus}]\n{}", given.collect::<Vec<_>>().join("\n"));
        let plain = from_environment(&[("TERRA_BRIDGE_BUS", bus), needed]).unwrap();
        let written = from_file(&toml).unwrap_or_else(|mistakes| panic!("{toml}\n{mistakes}"));
        assert_eq!(format!("{:?}", written.config), format!("{:?}", plain.config));
    }
}

#[test]
fn the_short_files_load_without_mistakes() {
    for bus in BUSES {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("config/{bus}.toml"));
        let variables = [(SIGNED.0.into(), SIGNED.1.into())];
        let loaded = load(Some(&path), variables.into_iter(), false).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert!(loaded.effective.to_string().contains(&format!("{bus:?}")));
    }
}
