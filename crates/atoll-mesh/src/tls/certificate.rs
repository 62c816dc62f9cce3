//! The certificate that a TLS server cannot do without: made at start, signed by itself, for nobody to check.
//!
//! It is X.509 (RFC 5280) in DER (X.690), as short as it may be: the name "localhost" for subject and issuer, and a fresh
//! P-256 key.

use std::sync::Arc;

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use super::TlsError;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// Context-specific, constructed, number 0: the version of a certificate.
const VERSION: u8 = 0xa0;
/// `ecdsa-with-SHA256`, 1.2.840.10045.4.3.2 (RFC 5758).
const ECDSA_WITH_SHA256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// `commonName`, 2.5.4.3.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];

/// Makes a key and its certificate.
pub(super) fn make() -> Result<CertifiedKey, TlsError> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| TlsError::Key)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| TlsError::Key)?;
    let to_sign = to_sign(public.as_ref(), rand::random());
    let signature = pair.sign(&SystemRandom::new(), &to_sign).map_err(|_| TlsError::Key)?;
    let certificate = node(
        SEQUENCE,
        &[&to_sign, &node(SEQUENCE, &[&ECDSA_WITH_SHA256]), &node(BIT_STRING, &[&[0], signature.as_ref()])],
    );
    let secret = pair.to_pkcs8v1().map_err(|_| TlsError::Key)?;
    let key = any_ecdsa_type(&PrivatePkcs8KeyDer::from(secret.as_ref()).into())?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(certificate)], Arc::clone(&key)))
}

/// The part of the certificate that is signed.
fn to_sign(public: &[u8], serial: [u8; 8]) -> Vec<u8> {
    let mut serial = serial;
    // Positive, and not a byte shorter.
    serial[0] = serial[0] & 0x3f | 0x40;
    let name = node(SEQUENCE, &[&node(SET, &[&node(SEQUENCE, &[&COMMON_NAME, &node(UTF8_STRING, &[b"localhost"])])])]);
    let validity = node(
        SEQUENCE,
        // From long ago to "no well-defined end" (RFC 5280 section 4.1.2.5).
        &[&node(UTC_TIME, &[b"240101000000Z"]), &node(GENERALIZED_TIME, &[b"99991231235959Z"])],
    );
    node(
        SEQUENCE,
        &[
            &node(VERSION, &[&node(INTEGER, &[&[2]])]),
            &node(INTEGER, &[&serial]),
            &node(SEQUENCE, &[&ECDSA_WITH_SHA256]),
            &name,
            &validity,
            &name,
            public,
        ],
    )
}

/// Tag, length and contents.
fn node(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length = contents.iter().map(|part| part.len()).sum::<usize>() as u32;
    let mut bytes = vec![tag];
    if length < 128 {
        bytes.push(length as u8);
    } else {
        let digits = length.to_be_bytes();
        let digits = &digits[(length.leading_zeros() / 8) as usize..];
        bytes.push(0x80 | digits.len() as u8);
        bytes.extend_from_slice(digits);
    }
    bytes.extend(contents.iter().flat_map(|part| part.iter()));
    bytes
}

#[cfg(test)]
mod tests {
    use rustls::{crypto::aws_lc_rs::default_provider, server::ParsedCertificate};

    use super::*;

    #[test]
    fn the_certificate_is_one_and_holds_the_key_that_signs() {
        let made = make().expect("made");
        let parsed = ParsedCertificate::try_from(&made.cert[0]).expect("it is X.509");
        let key = made.key.public_key().expect("known");
        assert_eq!(parsed.subject_public_key_info().as_ref(), key.as_ref());
        made.keys_match().expect("they belong together");
        assert!(
            made.key.choose_scheme(&default_provider().signature_verification_algorithms.supported_schemes()).is_some()
        );
        let other = make().expect("made");
        assert_ne!(made.cert, other.cert, "each start has its own");
    }

    #[test]
    fn long_contents_have_long_lengths() {
        assert_eq!(node(SET, &[&[7; 127]])[..3], [SET, 127, 7]);
        assert_eq!(node(SET, &[&[7; 200]])[..4], [SET, 0x81, 200, 7]);
        assert_eq!(node(SET, &[&[7; 300]])[..5], [SET, 0x82, 1, 44, 7]);
    }
}
