//! The certificate authority that callers' certificates come from.

use schema::encoding::Base64;
use x509_parser::{pem::Pem, prelude::FromDer, prelude::X509Certificate};

use super::CallerRefusal;

/// The largest PEM file read, in bytes.
const MAX_PEM_BYTES: usize = 16_384;

/// The DER of an authority's certificate. `pem` holds exactly one certificate, of an authority (basic constraints,
/// RFC 5280, section 4.2.1.9): the certificate of a caller itself would be pinned by mistake.
pub(super) fn authority_der(pem: &str) -> Result<Base64, CallerRefusal> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(CallerRefusal::AuthorityUnreadable);
    }
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    let (Some(Ok(block)), None) = (blocks.next(), blocks.next()) else { return Err(CallerRefusal::AuthorityUnreadable) };
    let read = X509Certificate::from_der(&block.contents).ok().filter(|(rest, _)| block.label == "CERTIFICATE" && rest.is_empty());
    let (_, certificate) = read.ok_or(CallerRefusal::AuthorityUnreadable)?;
    if !certificate.is_ca() {
        return Err(CallerRefusal::NotAnAuthority);
    }
    Ok(Base64(block.contents.clone()))
}

#[cfg(test)]
mod tests {
    use schema::encoding::Digest;

    use super::*;

    fn certificate(is_ca: rcgen::IsCa) -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::new(vec!["acme.example".to_owned()]).unwrap();
        params.is_ca = is_ca;
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn one_certificate_of_an_authority_is_taken() {
        let authority = certificate(rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
        let der = authority_der(&authority.pem()).unwrap();
        assert_eq!(Digest::of(&der.0), Digest::of(authority.der()));
        let code = |pem: &str| schema_code(authority_der(pem));
        assert_eq!(code(&certificate(rcgen::IsCa::NoCa).pem()), "caller_authority_not_an_authority");
        assert_eq!(code(&format!("{}{}", authority.pem(), authority.pem())), "caller_authority_unreadable");
        assert_eq!(code(&authority.pem().replace("CERTIFICATE", "PRIVATE KEY")), "caller_authority_unreadable");
        for text in ["", "not PEM", &"x".repeat(MAX_PEM_BYTES + 1)] {
            assert_eq!(code(text), "caller_authority_unreadable");
        }
    }

    fn schema_code(result: Result<Base64, CallerRefusal>) -> &'static str {
        crate::eventing::aggregate::Refusal::code(&result.unwrap_err())
    }
}
