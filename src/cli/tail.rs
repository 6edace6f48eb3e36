//! `tail`: prints messages as they arrive on the bus, in blocks for people or as one JSON object per line for
//! programs.

use std::io::{self, IsTerminal};

use futures_util::{StreamExt, future};

use super::args::TailArgs;
use super::failure::Failure;
use super::pretty::pretty;
use super::reading::{self, Topics, failed, few, until_ctrl_c};
use super::terminal::{Style, json_line, one_line, quiet_on_broken_pipe, write_from_task};
use crate::attribute::Attribute;
use crate::bus::{Payloads, Record, Step, Steps};
use crate::config;
use crate::vocabulary::TYPE_PREFIX;

/// The most lines of a payload to show.
const PAYLOAD_LINES: usize = 12;

/// Characters per line when there is no terminal to measure.
const WIDTH: usize = 100;

/// The attributes to show, with their labels.
const ATTRIBUTES: [(Attribute, &str); 6] = [
    (Attribute::Type, "type"),
    (Attribute::Id, "id"),
    (Attribute::TerraProvider, "provider"),
    (Attribute::TerraTraceId, "trace"),
    (Attribute::CorrelationId, "reference"),
    (Attribute::TerraDeadLetter, "reason"),
];

/// How many of a delivery id's 64 digits to show.
const ID_SHOWN: usize = 12;

/// Prints until the limit, Ctrl-C or a broken pipe, which are all `Ok`. `routed` are the topics to read if the
/// arguments name none.
pub(super) async fn run(args: &TailArgs, config: &config::Bus, routed: Vec<String>) -> Result<(), Failure> {
    let (config, from, limit, json) = (config.clone(), args.from, args.limit, args.json);
    let hint = topic_hint(&args.topics, &routed);
    let topics = if args.topics.is_empty() { Topics::Routed(routed) } else { Topics::Named(args.topics.clone()) };
    until_ctrl_c(async move {
        let opened = reading::open(&config, &topics, from, Payloads::All).await;
        let (topics, steps) = opened.map_err(|failure| failure.with(&hint))?;
        if io::stderr().is_terminal() {
            eprintln!("waiting for messages on {}; Ctrl-C ends", few(&topics));
        }
        let style = Style::of_stdout();
        let print = |record: &Record| {
            let text = if json { json_line(record)? } else { block(style, record) };
            write_from_task(&text)
        };
        follow(steps, limit.map(|limit| limit.get()), print).await
    })
    .await
}

async fn follow(
    steps: Steps,
    limit: Option<u64>,
    mut print: impl FnMut(&Record) -> io::Result<()>,
) -> Result<(), Failure> {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let records = steps.filter(|step| future::ready(!matches!(step, Ok(Step::CaughtUp))));
    let mut records = records.take(limit);
    while let Some(step) = records.next().await {
        if let Step::Record(record) = step.map_err(failed)?
            && let Err(error) = print(&record)
        {
            return quiet_on_broken_pipe(Err(error));
        }
    }
    Ok(())
}

/// A hint when a type was given in place of its topic.
fn topic_hint(named: &[String], routed: &[String]) -> String {
    let is_whole = |topic: &str, name: &str| topic.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
    let whole = |name: &String| routed.iter().find(|topic| is_whole(topic, name)).map(String::as_str);
    let topics: Vec<&str> = named.iter().filter(|name| !routed.contains(name)).filter_map(whole).collect();
    if topics.is_empty() { String::new() } else { format!("; did you mean {}?", topics.join(" ")) }
}

/// Several lines for people, the last one empty.
fn block(style: Style, record: &Record) -> String {
    let (topic, time) = (one_line(&record.topic, WIDTH), format!("{:.3}", record.time));
    let mut text = format!(
        "{}  {}  partition {} offset {}",
        style.paint("1;36", &topic),
        style.paint("2", &time),
        record.partition,
        record.offset
    );
    if let Some(key) = &record.key {
        text += &format!("  key {}", one_line(key, WIDTH));
    }
    let mut labelled: Vec<String> = ATTRIBUTES.iter().filter_map(|shown| labelled(style, record, *shown)).collect();
    labelled.extend(record.problem.map(|problem| format!("{} {problem}", style.paint("2", "problem"))));
    let labelled = (!labelled.is_empty()).then(|| labelled.join("  "));
    for line in labelled.into_iter().chain(payload(style, record)) {
        text += &format!("\n  {line}");
    }
    text + "\n\n"
}

fn labelled(style: Style, record: &Record, (attribute, label): (Attribute, &str)) -> Option<String> {
    let value = record.attribute(attribute)?;
    let mut value = one_line(value.strip_prefix(TYPE_PREFIX).unwrap_or(&value), WIDTH);
    if attribute == Attribute::Id {
        value = value.chars().take(ID_SHOWN).collect();
    }
    Some(format!("{} {value}", style.paint("2", label)))
}

fn payload(style: Style, record: &Record) -> Vec<String> {
    let bytes = record.payload.len();
    let Ok(text) = std::str::from_utf8(&record.payload) else {
        return vec![style.paint("2", &format!("{bytes} bytes, not UTF-8"))];
    };
    let (mut lines, is_whole) = pretty(text, style.width.unwrap_or(WIDTH).saturating_sub(2), PAYLOAD_LINES);
    if !is_whole {
        lines.push(style.paint("2", &format!("… {bytes} bytes in all")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::ReadError;
    use bytes::Bytes;
    use futures_util::stream;

    fn record(offset: u64, payload: impl Into<Bytes>) -> Record {
        let headers = [
            ("content-type", "application/json"),
            ("ce_id", "3fa9b2c1d4e5f60718293a4b5c6d7e8f3fa9b2c1d4e5f60718293a4b5c6d7e8f"),
            ("ce_type", "co.tryterra.daily"),
            ("ce_terraprovider", "GARMIN"),
            ("ce_subject", "u-1"),
        ];
        Record {
            topic: "terra.daily".to_owned(),
            key: Some("u-1".to_owned()),
            partition: 2,
            offset,
            time: "2026-07-14T05:01:10.25Z".parse().expect("a time"),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            payload: payload.into(),
            problem: None,
        }
    }

    fn records(all: Vec<Result<Record, ReadError>>) -> Steps {
        Box::pin(stream::iter(all).map(|record| record.map(Step::Record)))
    }

    const PLAIN: Style = Style { width: Some(40), has_colours: false };

    #[test]
    fn a_block_shows_position_headers_and_the_payloads_beginning() {
        let block = block(PLAIN, &record(42, r#"{"type":"daily","user":{"user_id":"u-1"},"data":[]}"#));
        assert_eq!(
            block,
            "terra.daily  2026-07-14T05:01:10.250Z  partition 2 offset 42  key u-1\n\
             \x20 type daily  id 3fa9b2c1d4e5  provider GARMIN\n\
             \x20 {\n\
             \x20   \"type\": \"daily\",\n\
             \x20   \"user\": {\"user_id\": \"u-1\"},\n\
             \x20   \"data\": []\n\
             \x20 }\n\n"
        );
    }

    #[test]
    fn a_large_payload_is_shown_only_by_its_beginning_and_size() {
        let numbers: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let payload = format!("[{}]", numbers.join(","));
        let shown = block(PLAIN, &record(1, payload.clone()));
        assert_eq!(shown.lines().count(), 2 + PAYLOAD_LINES + 2, "{shown}");
        assert!(shown.ends_with(&format!("… {} bytes in all\n\n", payload.len())), "{shown}");
        assert!(block(PLAIN, &record(1, vec![0xff, 0xfe])).contains("\n  2 bytes, not UTF-8\n"));
    }

    #[test]
    fn colours_only_where_wanted_and_escapes_never() {
        let coloured = Style { has_colours: true, ..PLAIN };
        assert!(block(coloured, &record(1, "{}")).starts_with("\x1b[1;36mterra.daily\x1b[0m"));
        let mut hostile = record(1, "{}");
        hostile.key = Some("\x1b[2J".to_owned());
        hostile.headers[3].1 = "\x1b]0;x\x07".to_owned();
        assert!(!block(PLAIN, &hostile).contains('\x1b'));
    }

    #[test]
    fn programs_get_one_object_a_line() {
        let mut hostile = record(7, "a\nb\u{9b}2J");
        hostile.headers[3].1 = "\u{9d}0;x\u{9c}\u{7f}".to_owned();
        let line = json_line(&hostile).expect("serialises");
        assert!(line.ends_with('\n') && line.matches(char::is_control).count() == 1, "{line:?}");
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&read["offset"], &read["payload"]), (&7.into(), &"a\nb\u{9b}2J".into()));
        assert_eq!(read["headers"]["ce_terraprovider"], "\u{9d}0;x\u{9c}\u{7f}");
    }

    #[tokio::test]
    async fn limit_ends_an_endless_stream() {
        let endless = stream::iter(0..).map(|offset| Ok(Step::Record(record(offset, "{}"))));
        let endless: Steps = Box::pin(stream::iter([Ok(Step::CaughtUp)]).chain(endless).chain(stream::pending()));
        let mut seen = Vec::new();
        let ended = follow(endless, Some(3), |record| {
            seen.push(record.offset);
            Ok(())
        })
        .await;
        assert!(ended.is_ok());
        assert_eq!(seen, [0, 1, 2]);
    }

    #[tokio::test]
    async fn broken_pipe_ends_quietly_and_an_error_of_the_bus_does_not() {
        let pipe = || Err(io::ErrorKind::BrokenPipe.into());
        assert!(follow(records(vec![Ok(record(1, "{}"))]), None, |_| pipe()).await.is_ok());
        let away = records(vec![Ok(record(1, "{}")), Err(ReadError("the broker is away".to_owned()))]);
        let ended = follow(away, None, |_| Ok(())).await;
        assert!(matches!(ended, Err(Failure::Running(says)) if says == "the broker is away"));
    }

    #[test]
    fn a_type_in_place_of_its_topic_is_answered_with_the_topic() {
        let routed: Vec<String> = ["terra.daily", "terra.lab_report", "sleep"].map(str::to_owned).to_vec();
        let hint =
            |named: &[&str]| topic_hint(&named.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &routed);
        assert_eq!(hint(&["daily", "lab_report", "sleep", "other"]), "; did you mean terra.daily terra.lab_report?");
        assert_eq!(hint(&["terra.daily", "ily"]), "");
    }
}
