//! The bytes of a planned delivery: its body, always the same, and the last part of its topic's name.

use fastrand::Rng;
use terra_bridge::vocabulary::KNOWN;

use crate::plan::{Content, Planned, Unreadable};

const TEXT: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -";

/// The type in `routes.template`, or the last part of the other two topics.
pub fn topic(content: Content) -> &'static str {
    match content {
        Content::Known(at) => KNOWN[at].name,
        Content::Unknown => "unknown",
        Content::Unreadable(_) => "dead-letter",
    }
}

/// Unique within a plan.
pub fn body(planned: &Planned) -> Vec<u8> {
    let mark = format!("{}-{:016x}", planned.number, planned.salt);
    let user = format!(r#""user":{{"user_id":"u{}","provider":"OURA","reference_id":"é"}}"#, planned.user);
    let (start, end): (String, &[u8]) = match planned.content {
        Content::Known(at) => {
            let known = &KNOWN[at];
            let field = known.type_field;
            let name = known.name;
            let event = if name.contains('.') { format!(r#""event_id":"{mark}","#) } else { String::new() };
            (format!(r#"{{"{field}":"{name}",{user},{event}"mark":"{mark}","data":[""#), b"\"]}")
        }
        Content::Unknown => (format!(r#"{{"type":"brand.new",{user},"mark":"{mark}","data":[""#), b"\"]}"),
        Content::Unreadable(Unreadable::NotUtf8) => {
            (format!(r#"{{"type":"daily","mark":"{mark}","data":""#), b"\xff\"}")
        }
        Content::Unreadable(Unreadable::NotJson) => (format!("{mark} is no JSON: "), b"{"),
        Content::Unreadable(Unreadable::NotAnObject) => (format!(r#"["daily","{mark}",""#), b"\"]"),
        Content::Unreadable(Unreadable::NoType) => (format!(r#"{{"mark":"{mark}","data":""#), b"\"}"),
    };
    let mut body = start.into_bytes();
    let filling = planned.size.saturating_sub(body.len() + end.len());
    fill(&mut body, filling, planned.salt);
    body.extend_from_slice(end);
    body
}

/// Text that compresses by a quarter at most.
fn fill(body: &mut Vec<u8>, length: usize, salt: u64) {
    let mut rng = Rng::with_seed(salt);
    let end = body.len() + length;
    body.reserve(length + TEXT.len());
    while body.len() < end {
        let mut bits = rng.u64(..);
        for _ in 0..10 {
            body.push(TEXT[(bits & 63) as usize]);
            bits >>= 6;
        }
    }
    body.truncate(end);
}
