//! The URL of a bridge's endpoint on the command line.

pub(super) fn url(text: &str) -> Result<http::Uri, String> {
    let url: http::Uri = text.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) => Ok(url),
        _ => Err("expected a whole URL, such as http://127.0.0.1:8080/terra".to_owned()),
    }
}
