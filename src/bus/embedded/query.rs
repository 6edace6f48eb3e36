//! The parameters of a request for messages.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::ACCEPT;
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use super::stream::{Format, Selection};
use crate::log::Extent;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Earliest,
    Latest,
    Offset(u64),
    /// After the last event that a client saw.
    After(u64),
}

pub(super) struct Query {
    start: Start,
    limit: Option<u64>,
    follow: bool,
    pub(super) format: Format,
}

impl Query {
    /// An unknown parameter is refused: a misspelt `from` would silently skip records. Server-sent events follow by
    /// default, as their clients reconnect anyway.
    pub(super) fn parse(query: &str, headers: &HeaderMap) -> Result<Self, ApiError> {
        let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let events = accept.flat_map(|value| value.split(',')).any(is_event_stream);
        let format = if events { Format::Events } else { Format::Lines };
        let mut asked = Self { start: Start::Earliest, limit: None, follow: events, format };
        for (name, value) in parameters(query)? {
            match (&*name, &*value) {
                ("from", "earliest") => asked.start = Start::Earliest,
                ("from", "latest") => asked.start = Start::Latest,
                ("from", offset) => asked.start = Start::Offset(number("from", offset)?),
                ("limit", limit) => asked.limit = Some(number("limit", limit)?),
                ("follow", "true") => asked.follow = true,
                ("follow", "false") => asked.follow = false,
                ("follow", _) => return Err(ApiError::BadRequest("follow is true or false".to_owned())),
                _ => return Err(ApiError::BadRequest("the parameters are from, limit and follow".to_owned())),
            }
        }
        if let Some(last) = headers.get("last-event-id") {
            asked.start = Start::After(number("Last-Event-ID", last.to_str().unwrap_or_default())?);
        }
        Ok(asked)
    }

    /// The records of a topic that it selects. A start below the earliest offset is refused. A start above the next
    /// one is refused too, unless a plain `from` waits for it with `follow`: an event that was already seen cannot be
    /// in the future, so it was seen on another log.
    pub(super) fn select(&self, extent: &Extent) -> Result<Selection, ApiError> {
        let from = match self.start {
            Start::Earliest => extent.earliest,
            Start::Latest => extent.next,
            Start::Offset(offset) => offset,
            Start::After(offset) => offset.saturating_add(1),
        };
        let waits = self.follow && matches!(self.start, Start::Offset(_));
        if from < extent.earliest || (from > extent.next && !waits) {
            return Err(ApiError::OutOfRange(*extent));
        }
        let until = if self.follow { None } else { Some(extent.next) };
        Ok(Selection { from, until, limit: self.limit, format: self.format })
    }
}

fn parameters(query: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| Ok((decode(name)?, decode(value)?)))
        .collect()
}

/// Decodes a part of a URL.
pub(super) fn decode(text: &str) -> Result<String, ApiError> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| ApiError::BadRequest("the URL is not UTF-8".to_owned()))
}

fn number(name: &str, text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| ApiError::BadRequest(format!("{name} is not an offset or a number")))
}

fn is_event_stream(range: &str) -> bool {
    range.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}
