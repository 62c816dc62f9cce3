//! The certificate that a TLS server cannot do without: made at start, signed by itself, for nobody to check.

use rcgen::{CertificateParams, KeyPair};
use rustls::{crypto::aws_lc_rs::sign::any_ecdsa_type, pki_types::PrivatePkcs8KeyDer, sign::CertifiedKey};

use super::TlsError;

/// Makes a key (ECDSA, P-256) and its certificate.
pub(super) fn make() -> Result<CertifiedKey, TlsError> {
    let pair = KeyPair::generate()?;
    let certificate = CertificateParams::new(["localhost".to_owned()])?.self_signed(&pair)?;
    let key = any_ecdsa_type(&PrivatePkcs8KeyDer::from(pair.serialize_der()).into())?;
    Ok(CertifiedKey::new(vec![certificate.into()], key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_a_key_and_a_certificate_of_its_own() {
        let (one, other) = (make().expect("made"), make().expect("made"));
        one.keys_match().expect("they belong together");
        assert_ne!(one.cert, other.cert);
    }
}
