//! Who is calling: an agent-local token, or a client certificate. Whether that caller may do anything is decided later;
//! here it only proves who it is.

use std::{
    future::{Ready, ready},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header::AUTHORIZATION, web};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use schema::{
    clock::Clock,
    encoding::{Digest, base64url},
    id::{CallerId, SiteId},
    token::{Token, TokenKind},
    wire::problem::Problem,
};
use service::{listen::PeerCertificates, problem::HttpProblem, tls::client_roots::ClientRoots};
use trust::statement::policy::CallerKind;
use x509_parser::extensions::GeneralName;

use super::tokens::{CallerReference, Tokens};
use crate::{
    operation::Proven,
    policy::{current::Current, in_force::InForce, refusal::Refusal},
};

/// Proves callers.
pub struct Callers {
    current: Arc<Current>,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
    authorities: RwLock<(Weak<InForce>, Arc<Authorities>)>,
}

/// The certificate authorities of one set, each by itself, so that it is known which of them vouches for a certificate.
type Authorities = Vec<(String, ClientRoots)>;

impl Callers {
    /// Tokens from their file, certificates as the set in force says.
    pub fn new(current: Arc<Current>, tokens: Tokens, clock: Arc<dyn Clock>) -> Self {
        Self { current, tokens, clock, authorities: RwLock::new((Weak::new(), Arc::default())) }
    }

    /// Who sent this.
    pub fn prove(&self, request: &HttpRequest) -> Result<Proven, Problem> {
        // A unix socket has no address; whoever may open it is on this host.
        let address = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip());
        let caller = if let Some(value) = request.headers().get(AUTHORIZATION) {
            self.by_token(value.as_bytes())?
        } else if let Some(certificates) = PeerCertificates::of(request) {
            self.by_certificate(certificates)?
        } else {
            return Err(not_proved("send Authorization: Bearer with a caller token (freehold-agent caller add), or a client certificate"));
        };
        Ok(Proven { caller, address })
    }

    fn by_token(&self, header: &[u8]) -> Result<CallerId, Problem> {
        let text = std::str::from_utf8(header).ok().and_then(|text| text.strip_prefix("Bearer ").or_else(|| text.strip_prefix("bearer ")));
        let token = text.ok_or_else(|| not_proved("the Authorization header must be: Bearer, and a caller token"))?;
        let token = Token::parse(TokenKind::Caller, token).map_err(|error| not_proved(&error.to_string()))?;
        let reference =
            self.tokens.caller(&token.digest()).ok_or_else(|| not_proved("this agent does not know this token, or it was removed"))?;
        let in_force = self.in_force()?;
        let unknown = || Refusal::CallerUnknown { caller: reference.to_string() }.problem();
        let id = match &reference {
            CallerReference::Id(id) => *id,
            CallerReference::Named { project, name } => in_force.caller_named(project, name).ok_or_else(unknown)?,
        };
        let definition = in_force.caller(id).ok_or_else(unknown)?;
        let here = definition.issuer.parse::<SiteId>().is_ok_and(|site| site == in_force.site);
        if definition.kind == CallerKind::Token && here {
            Ok(id)
        } else {
            Err(not_proved("policy says that this caller comes with another proof than a token of this site"))
        }
    }

    fn by_certificate(&self, certificates: &PeerCertificates) -> Result<CallerId, Problem> {
        let in_force = self.in_force()?;
        let (leaf, above) = certificates.0.split_first().ok_or_else(|| not_proved("the client certificate is empty"))?;
        let names = subject_names(leaf);
        // Possession of the key was proved in the handshake; the chain is checked against today's authorities, one by one.
        // The wall clock only decides whether the certificate is in its time.
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(self.clock.now().seconds()).unwrap_or(0)));
        for (issuer, roots) in self.authorities(&in_force).iter() {
            let wanted = names.iter().find_map(|name| in_force.caller_with_certificate(issuer, name));
            if let Some(caller) = wanted
                && roots.verify_client_cert(leaf, above, now).is_ok()
            {
                return Ok(caller);
            }
        }
        Err(not_proved("no caller in the policy in force has this client certificate's authority and subject alternative name"))
    }

    fn in_force(&self) -> Result<Arc<InForce>, Problem> {
        self.current.load().ok_or_else(|| Refusal::NoStatements.problem())
    }

    fn authorities(&self, in_force: &Arc<InForce>) -> Arc<Authorities> {
        let known = self.authorities.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.0.upgrade().is_some_and(|of| Arc::ptr_eq(&of, in_force)) {
            return known.1;
        }
        let authorities = Arc::new(single_authorities(in_force));
        *self.authorities.write().unwrap_or_else(PoisonError::into_inner) = (Arc::downgrade(in_force), authorities.clone());
        authorities
    }
}

fn single_authorities(in_force: &InForce) -> Authorities {
    let each = in_force.caller_authorities.iter().filter_map(|(digest, der): (&Digest, &Vec<u8>)| {
        let roots = ClientRoots::required();
        match roots.set(vec![CertificateDer::from(der.clone())]) {
            Ok(()) => Some((base64url(&digest.0), roots)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, authority = %digest, "a caller authority cannot be used");
                None
            }
        }
    });
    each.collect()
}

/// The subject alternative names that may name a caller: URIs (SPIFFE ids among them) and DNS names.
fn subject_names(leaf: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(leaf) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let named = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    named.collect()
}

fn not_proved(detail: &str) -> Problem {
    Problem::new(401, "caller_not_proved", "The caller did not prove who it is", detail)
}

impl FromRequest for Proven {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(shared) = request.app_data::<web::Data<super::Shared>>() else {
            return ready(Err(HttpProblem(Problem::new(500, "internal", "Internal fault", "the server is not set up")).into()));
        };
        ready(shared.callers.prove(request).map_err(|problem| {
            let address = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip());
            let problem = if problem.status == 401 { shared.pipeline.limits.unproved(address).err().unwrap_or(problem) } else { problem };
            HttpProblem(problem).into()
        }))
    }
}
