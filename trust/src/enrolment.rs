//! How a request to join travels without its token: whoever hands it in holds the enrolment file as well, and sees by an HMAC under the
//! token that the request comes from a host that has it, and is as it was written. HMAC-SHA-256 (RFC 2104); the token is 256 random
//! bits, so the file gives nothing away that could be guessed.

use hmac::{Hmac, KeyInit, Mac};
use schema::wire::exchange::{CarriedFile, EnrolmentRequest, EnrolmentRequestFile};
use sha2::Sha256;

const LABEL: &[u8] = b"freehold-enrolment-request-v1\0";

/// Why a request is not handed in. [`RequestRefusal::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum RequestRefusal {
    /// Another token made it, or somebody changed it.
    #[error("the request was not made with this enrolment file, or was changed on its way: make it again, and carry it yourself")]
    NotGenuine,
    /// What is inside cannot be read.
    #[error("what the request says cannot be read: is the agent newer than this program?")]
    Malformed(#[source] serde_json::Error),
}

impl RequestRefusal {
    /// A stable name.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotGenuine => "enrolment_request_not_genuine",
            Self::Malformed(_) => "enrolment_request_malformed",
        }
    }
}

/// Writes a request down, for somebody to carry.
#[allow(clippy::expect_used, reason = "our own type, written to memory")]
pub fn seal_request(token: &str, request: &EnrolmentRequest) -> EnrolmentRequestFile {
    let bytes = serde_json::to_vec(request).expect("a request is JSON");
    let mac = mac(token, &bytes).finalize().into_bytes().to_vec().into();
    EnrolmentRequestFile { format: EnrolmentRequestFile::FORMAT.to_owned(), v: 1, request: bytes.into(), mac }
}

/// Reads one that was made with this token.
pub fn open_request(token: &str, file: &EnrolmentRequestFile) -> Result<EnrolmentRequest, RequestRefusal> {
    let genuine = mac(token, file.request.as_slice()).verify_slice(file.mac.as_slice());
    genuine.map_err(|_| RequestRefusal::NotGenuine)?;
    serde_json::from_slice(file.request.as_slice()).map_err(RequestRefusal::Malformed)
}

#[allow(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn mac(token: &str, request: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("a key of any length");
    mac.update(LABEL);
    mac.update(request);
    mac
}

#[cfg(test)]
mod tests {
    use schema::encoding::Base64;

    use super::*;

    #[test]
    fn a_request_is_as_its_host_wrote_it_or_is_not_handed_in() {
        let request = EnrolmentRequest {
            csr_pem: "csr".to_owned(),
            roster_entry: Base64(vec![1]),
            agent_version: "1".to_owned(),
            host: "h".to_owned(),
        };
        let file = seal_request("fh_enrol_one", &request);
        assert_eq!(open_request("fh_enrol_one", &file).unwrap(), request);
        assert!(!serde_json::to_string(&file).unwrap().contains("fh_enrol"), "the token does not travel");

        let code = |token: &str, file: &EnrolmentRequestFile| open_request(token, file).unwrap_err().code();
        assert_eq!(code("fh_enrol_two", &file), "enrolment_request_not_genuine");
        let mut changed = file.clone();
        changed.request.0[3] ^= 1;
        assert_eq!(code("fh_enrol_one", &changed), "enrolment_request_not_genuine");
        let other = EnrolmentRequestFile { mac: Base64(file.mac.0[..16].to_vec()), ..file };
        assert_eq!(code("fh_enrol_one", &other), "enrolment_request_not_genuine");
    }
}
