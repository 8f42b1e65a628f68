//! Why a caller says no.

use crate::eventing::refusals;

refusals! {
    /// Why a command on a caller is turned down.
    CallerRefusal {
        Exists = "caller_exists", "a caller with this kind, issuer and subject is already registered; change that one, or choose another subject";
        NotFound = "caller_not_found", "there is no such caller";
        TokenIssuer = "caller_issuer_not_a_site" at "issuer", "the issuer of a token caller is the id of the site whose agents keep its token, site_…";
        TokenSubject = "caller_subject_not_its_name" at "subject", "the subject of a token caller is its name; leave it out";
        TokenAuthority = "caller_authority_of_a_token" at "authorityPem", "a token caller has no certificate authority; leave it out";
        AuthorityMissing = "caller_authority_missing" at "authorityPem", "a certificate caller needs its authority's certificate, PEM: agents check the caller's certificate against it";
        AuthorityUnreadable = "caller_authority_unreadable" at "authorityPem", "the authority is one X.509 certificate in PEM of at most 16 KiB: one block BEGIN CERTIFICATE";
        NotAnAuthority = "caller_authority_not_an_authority" at "authorityPem", "this certificate may not sign certificates (basic constraints say no CA); give the certificate of the authority, not of the caller";
        IssuerMissing = "caller_issuer_missing" at "issuer", "a token caller needs the site whose agents keep its token, id or name";
        CertificateIssuer = "caller_issuer_not_its_authority" at "issuer", "the issuer of a certificate caller is the SHA-256 of its authority's certificate (DER), base64url without padding; leave it out";
        CertificateSubject = "caller_subject_not_a_name" at "subject", "the subject of a certificate caller is the URI or DNS name in its certificate: 1 to 255 printable characters without spaces";
        TooManyLabels { max: usize } = "caller_has_too_many_labels" at "labels", "a caller has at most {max} labels";
        AlreadySuspended = "caller_already_suspended", "the caller is already suspended";
        NotSuspended = "caller_not_suspended", "the caller is not suspended, so there is nothing to resume";
        Revoked = "caller_revoked", "the caller is revoked for good; register another one";
        Hold = "caller_hold_is_suspension" at "reason", "certificateHold is temporary: suspend the caller instead of revoking it";
    }
}
