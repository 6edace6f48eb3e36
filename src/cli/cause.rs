//! Why a command got no answer, in words for people. Comes in: a client's error. Goes out: what happened, with a
//! hint where there is one.

use std::error::Error;
use std::io;

/// The innermost error, which alone says what happened, with a hint where there is one.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = inner(cause) {
        cause = inner;
    }
    if cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        return "connection refused; does the bridge run there?".to_owned();
    }
    if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
        return format!("{cause}; is it HTTPS that is spoken there?");
    }
    match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidMessage(_)) => "no TLS is spoken there; is it plain HTTP?".to_owned(),
        Some(rustls::Error::InvalidCertificate(_)) => {
            format!(
                "{cause}; with --url this machine's authorities count, without it the certificate that is configured"
            )
        }
        _ => cause.to_string(),
    }
}

/// What an I/O error was made of is not its source, but what that has as a source.
fn inner<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}
