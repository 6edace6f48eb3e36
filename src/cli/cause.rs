//! Explains why a command got no answer over HTTP.

use std::error::Error;
use std::io;

/// The innermost error, which says what happened, with a hint if there is one.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = inner(cause) {
        cause = inner;
    }
    if cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        return "connection refused; is the bridge running there?".to_owned();
    }
    if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
        return format!("{cause}; does that port speak HTTPS?");
    }
    match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidMessage(_)) => "that port does not speak TLS; is it plain HTTP?".to_owned(),
        Some(rustls::Error::InvalidCertificate(_)) => {
            format!(
                "{cause}; with --url the bridge needs a certificate from an authority that this machine trusts, without it the \
                 configured one"
            )
        }
        _ => cause.to_string(),
    }
}

/// The error that an I/O error wraps is not its source; only that error's own source is.
fn inner<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}
