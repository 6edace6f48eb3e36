//! Any TOML and any environment: no panic, every mistake says where it is, and no secret is shown.

#![no_main]

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use terra_bridge::cli::load;
use terra_bridge::config::Source;

const SECRET: &str = "canary-7f3a9c";

fuzz_target!(|data: &[u8]| {
    // Lines of the environment, then a zero byte, then the file.
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (environment, text) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text).expect("it is ours");
    let mut variables = vec![(OsString::from("TERRA_SIGNING_SECRET"), OsString::from(SECRET))];
    for line in environment.split(|byte| *byte == b'\n').take(20) {
        let mut pair = line.splitn(2, |byte| *byte == b'=');
        let name = [b"TERRA_BRIDGE_", pair.next().unwrap_or_default()].concat();
        let value = pair.next().unwrap_or_default().to_vec();
        variables.push((OsString::from_vec(name), OsString::from_vec(value)));
    }
    let shown = match load(Some(file.path()), variables.into_iter(), false) {
        Ok(loaded) => format!("{}{:?}", loaded.effective, loaded.config),
        Err(mistakes) => {
            assert!(!mistakes.all.is_empty(), "an error without a mistake");
            for mistake in &mistakes.all {
                // A file as a whole is no place for a key.
                let nowhere = !mistake.key.is_empty() && matches!(mistake.source, Source::File { line: None, .. });
                assert!(!nowhere && !mistake.wrong.is_empty(), "{mistake}");
            }
            mistakes.all.iter().map(|mistake| format!("{mistake}\n")).collect()
        }
    };
    // Unless the input itself has it, where it is no secret.
    let given = data.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    assert!(given || !shown.contains(SECRET), "{shown}");
});
