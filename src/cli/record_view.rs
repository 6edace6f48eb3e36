//! One record for people: all its headers, and its payload only where somebody asked for it.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;

use super::terminal::harmless;
use crate::bus::Record;

/// Several lines: the id, the rows, and the headers with their values as they are.
pub(super) fn view(id: &str, rows: &[(&str, String)], record: &Record, with_payload: bool) -> String {
    let mut text = format!("{id}\n");
    let headers = record.headers.iter().map(|(name, value)| {
        // Only CloudEvents' NATS binding encodes.
        let is_encoded = name.starts_with("ce-");
        let value = if is_encoded { percent_decode_str(value).decode_utf8_lossy() } else { value.into() };
        (name.as_str(), value.into_owned())
    });
    let rows = rows.iter().map(|(name, value)| (*name, value.clone()));
    for (name, value) in rows.chain(headers) {
        let _ = writeln!(text, "  {name:18}  {}", value.replace('\n', " "));
    }
    if with_payload {
        match std::str::from_utf8(&record.payload) {
            Ok(payload) => text += &format!("\n{payload}\n"),
            Err(_) => text += &format!("\nbase64: {}\n", data_encoding::BASE64.encode(&record.payload)),
        }
    }
    harmless(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_shown_only_where_it_is_wanted_and_drives_no_terminal() {
        let record = Record {
            topic: "t".to_owned(),
            key: None,
            partition: 0,
            offset: 0,
            time: jiff::Timestamp::UNIX_EPOCH,
            headers: vec![("ce-subject".into(), "a%20b".into()), ("ce_x".into(), "%20".into())],
            payload: "secret\x1b[2J".into(),
            problem: None,
        };
        let shown = view("id", &[("topic", "t".to_owned())], &record, false);
        assert_eq!(shown, "id\n  topic               t\n  ce-subject          a b\n  ce_x                %20\n");
        let shown = view("id", &[], &record, true);
        assert!(shown.contains("secret") && !shown.contains('\x1b'));
    }
}
