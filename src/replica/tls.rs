//! Whom to trust, the handshake's errors in words, and what binds a login to the connection it is made on.

use std::{
    error::Error as StdError,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::WebPkiSupportedAlgorithms,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::transport::{Error, ErrorKind};

/// What of the server's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// The authorities that the system trusts, and Mozilla's.
    Public,
    /// PEM certificates.
    File(PathBuf),
}

/// # Errors
/// When the file of certificates cannot be used.
pub(super) fn client_config(check: Check, roots: &Roots) -> Result<ClientConfig, Error> {
    let (store, exact) = match (check, roots) {
        (Check::Nothing, _) => (RootCertStore::empty(), Vec::new()),
        (_, Roots::Public) => (public_roots(), Vec::new()),
        (_, Roots::File(path)) => file_roots(path)?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier { check, store, exact, supported: provider.signature_verification_algorithms };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| settings(format!("TLS cannot be set up: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// The system's authorities, where a private one may have been added, and Mozilla's, for machines that have none.
fn public_roots() -> RootCertStore {
    let mut store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    store
}

fn file_roots(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Error> {
    let bad = |why: String| settings(format!("DATABASE_URL's sslrootcert {}: {why}", path.display()));
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| bad(format!("{error}; it must hold PEM certificates")))?;
    if certificates.is_empty() {
        return Err(bad("there is no PEM certificate in it".to_owned()));
    }
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store.add(certificate.clone()).map_err(|error| bad(error.to_string()))?;
    }
    Ok((store, certificates))
}

fn settings(detail: String) -> Error {
    Error::new(ErrorKind::Settings, detail)
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    store: RootCertStore,
    /// A server may show the very certificate that was named: a self-signed one, as Postgres's manual makes.
    /// Who names it has said that it is the one, so that nothing is left to check but the name.
    exact: Vec<CertificateDer<'static>>,
    supported: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !self.exact.iter().any(|named| named == end_entity) {
            let algorithms = self.supported.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.store,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if self.check == Check::ChainAndName {
            verify_server_name(&certificate, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.supported)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.supported)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.supported.supported_schemes()
    }
}

/// What was wrong, when a connection failed for its TLS; nothing if that was not the reason.
pub(super) fn explain(error: &(dyn StdError + 'static), host: &str) -> Option<Error> {
    let failed = |kind, detail| Error::new(kind, detail);
    Some(match cause(error)? {
        rustls::Error::InvalidCertificate(why) => {
            failed(ErrorKind::Certificate, format!("the certificate of {host} {}", fault(why)))
        }
        rustls::Error::NoCertificatesPresented => {
            failed(ErrorKind::Certificate, format!("{host} shows no certificate"))
        }
        rustls::Error::InvalidMessage(_) => failed(ErrorKind::Garbage, format!("{host} does not speak TLS")),
        other => failed(ErrorKind::Unreachable, format!("no TLS with {host}: {other}")),
    })
}

/// An `io::Error`'s source is its content's source: the content itself has to be asked for.
fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(content) => Some(content),
            None => error.source(),
        };
    }
    None
}

fn fault(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet; is this machine's clock right?".to_owned()
        }
        CertificateError::UnknownIssuer => "is signed by an authority that is not trusted".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name".to_owned()
        }
        CertificateError::Revoked => "was revoked".to_owned(),
        other => format!("is not accepted: {other}"),
    }
}

/// `tls-server-end-point` of RFC 5929: the certificate's digest by the hash of its own signature, MD5 and SHA-1
/// replaced by SHA-256. A login bound to it is worth nothing on another connection.
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    // The last bytes of the object identifiers, after those that they share.
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let (whole, _) = der(certificate)?;
    let (_to_be_signed, rest) = der(whole)?;
    let (algorithm, _) = der(rest)?;
    let (identifier, _) = der(algorithm)?;
    let end = match (identifier.strip_prefix(RSA), identifier.strip_prefix(ECDSA)) {
        (Some([0x04 | 0x05 | 0x0b]), _) | (_, Some([0x01] | [0x03, 0x02])) => 256,
        (Some([0x0c]), _) | (_, Some([0x03, 0x03])) => 384,
        (Some([0x0d]), _) | (_, Some([0x03, 0x04])) => 512,
        _ => return None,
    };
    Some(match end {
        256 => Sha256::digest(certificate).to_vec(),
        384 => Sha384::digest(certificate).to_vec(),
        _ => Sha512::digest(certificate).to_vec(),
    })
}

/// The first element's content, and what follows it.
fn der(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let digits = usize::from(first & 0x7f);
        if digits == 0 || digits > 4 || rest.len() < digits {
            return None;
        }
        let (length, rest) = rest.split_at(digits);
        (length.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
    };
    (rest.len() >= length).then(|| rest.split_at(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_point_is_the_certificates_digest_by_its_own_hash() {
        for (algorithm, length) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let certificate =
                rcgen::CertificateParams::new(["h".to_owned()]).unwrap().self_signed(&key).unwrap();
            assert_eq!(end_point(certificate.der()).map(|digest| digest.len()), length);
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_end_point() {
        let samples: [&[u8]; 6] =
            [b"", b"\x30", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x30\x89", b"\x30\x03\x30\x05\x01"];
        for bytes in samples {
            assert_eq!(end_point(bytes), None);
        }
    }
}
