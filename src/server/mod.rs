//! Connections, limits and deadlines.

mod payload;

pub use payload::Payload;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// What any listener answers with: a small body, or a stream.
pub type Reply = http::Response<UnsyncBoxBody<Bytes, std::io::Error>>;
