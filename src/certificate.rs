//! When X.509 certificates expire. Reads nothing else of them, and trusts none.

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode, Reader, SliceReader, Tag, Tagged};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// When the first of these certificates expires, in Unix seconds. `None` if nothing says so.
pub(crate) fn first_expiration<'c>(chain: impl IntoIterator<Item = &'c CertificateDer<'c>>) -> Option<i64> {
    chain.into_iter().filter_map(|certificate| not_after(certificate)).min()
}

/// As [`first_expiration`], of a PEM file's content.
pub(crate) fn first_expiration_of_pem(pem: &[u8]) -> Option<i64> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    first_expiration(&chain)
}

/// `TBSCertificate` of RFC 5280: an optional version, serial number, signature, issuer, validity and more.
fn not_after(certificate: &[u8]) -> Option<i64> {
    let mut certificate = inside(AnyRef::from_der(certificate).ok()?)?;
    let mut signed = inside(next(&mut certificate)?)?;
    let has_version = matches!(next(&mut signed)?.tag(), Tag::ContextSpecific { .. });
    for _ in 0..if has_version { 3 } else { 2 } {
        next(&mut signed)?;
    }
    let mut validity = inside(next(&mut signed)?)?;
    next(&mut validity)?;
    let not_after = next(&mut validity)?;
    let since = match not_after.tag() {
        Tag::UtcTime => not_after.decode_as::<UtcTime>().ok()?.to_unix_duration(),
        _ => not_after.decode_as::<GeneralizedTime>().ok()?.to_unix_duration(),
    };
    i64::try_from(since.as_secs()).ok()
}

fn inside(value: AnyRef<'_>) -> Option<SliceReader<'_>> {
    SliceReader::new(value.value()).ok()
}

fn next<'r>(reader: &mut SliceReader<'r>) -> Option<AnyRef<'r>> {
    reader.decode().ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn until(year: i32) -> String {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 2, 3);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn the_first_certificate_to_expire_counts_in_either_way_to_write_a_time() {
        // Up to 2049 as UTCTime, then as GeneralizedTime.
        assert_eq!(first_expiration_of_pem(until(2049).as_bytes()), Some(2_495_923_200));
        assert_eq!(first_expiration_of_pem(until(2050).as_bytes()), Some(2_527_459_200));
        let chain = until(2050) + &until(2031) + &until(2049);
        assert_eq!(first_expiration_of_pem(chain.as_bytes()), Some(1_927_843_200));
        assert_eq!(first_expiration_of_pem(b"no certificate"), None);
    }

    #[test]
    fn no_cut_certificate_causes_a_panic() {
        let pem = until(2031);
        let whole = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert!((0..whole.len()).all(|end| not_after(&whole[..end]).is_none()));
    }
}
