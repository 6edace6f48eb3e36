//! The configuration: defaults, then a TOML file, then the environment. Yields a valid [`Config`], or every mistake
//! at once. Opens no port, and knows no other module: their checks are passed in.
//!
//! - `load`: reads it all, in the order of the files below
//! - `environment`, `file`: the sources; each value is a `setting`
//! - `layers`: the sources over each other; unknown names get a `suggestion`
//! - `sections`, `buses`, `tls`: every key, declared once: `server.max_body` is `max_body` of `Server`, and what is not
//!   `reloadable` needs a restart; `declaration` has the words for that, `key` the list of keys
//! - `format`, `texts`, `units`: how values are written
//! - `section_reader`: reads key after key into a section, and a line of what is `effective`
//! - `secret`, `secret_source`, `secret_file`: references to secrets, and files that change
//! - `rules`: how keys belong together
//! - `draft`: what was read and may have mistakes; `resolved`: what has none, and how another one differs
//! - `advice`, `mistake`: what is reported to the user
//! - `files`: reading files that may hang or be replaced

mod advice;
mod buses;
mod declaration;
mod draft;
mod effective;
mod environment;
mod file;
pub(crate) mod files;
mod format;
mod key;
mod layers;
mod load;
mod mistake;
mod otlp;
mod resolved;
mod rules;
mod secret;
mod secret_file;
mod secret_source;
mod section_reader;
mod sections;
mod setting;
mod suggestion;
mod texts;
mod tls;
pub(crate) mod units;

pub use advice::Advice;
pub use buses::{Bus, Compression, Embedded, Kafka, Nats, OAuth};
pub use draft::Draft;
pub use effective::{Effective, Line};
pub use load::{read, read_admin};
pub use mistake::{Ignored, Mistake, Mistakes, Source};
pub use otlp::Otlp;
pub use resolved::{Difference, Resolved, SecretChanges};
pub use secret::Secret;
pub use section_reader::Purpose;
pub use sections::{
    Access, Admin, Config, Dedupe, Endpoint, Log, LogFormat, OwnRoutes, Routes, S3, Senders, Server, Spool,
};
pub use texts::topic_name;
pub use tls::{CertificatePair, Tls};
pub(crate) use units::parse_duration;

#[cfg(test)]
mod tests;
