//! A signer of the tenant vouches for an agent: what it reads of the agent proves itself, and the join code comes from a person.

use schema::{
    encoding::{Base64, Digest, from_base64url},
    id::AgentId,
};
use serde_json::{Value, json};
use trust::{
    document::{AgentVouch, open_roster_entry},
    signing::Signable,
    statement::Kind,
};

use super::{Session, root::Signing};
use crate::{
    error::{Error, Exit},
    graphql::documents::AGENT,
    output,
    signing::{desk::Desk, difference::visible, file::Memory},
};

const COLUMNS: &[output::Column] =
    &[("id", "/id"), ("site", "/site/name"), ("state", "/state"), ("key id", "/keyId"), ("vouch signed by", "/vouchSignedBy")];

fn refused(code: &str, message: String) -> Error {
    Error::new(Exit::Unverified, code, message)
}

/// Looks at the agent, asks, signs and hands in.
pub async fn vouch(session: &Session, agent: &str, code: Digest, signing: &Signing) -> Result<(), Error> {
    let id: AgentId = agent.parse().map_err(|error| Error::usage(format!("{agent}: {error}")))?;
    let public = signing.public()?;
    let memory = Memory::read(&signing.signer)?;
    let desk = Desk::open(session.control_plane()?, &memory, signing.root).await?;
    if desk.is_first {
        signing.first(&desk)?;
    }
    let role = desk.authority.role(Kind::Policy).ok().filter(|role| role.tenant_held && role.signers.find(&public.keyid).is_some());
    let threshold =
        role.ok_or_else(|| refused("signer_not_in_role", format!("the pair {} signs no policies of this tenant", public.keyid)))?.threshold;

    let client = session.control_plane()?;
    let told = client.one(AGENT, "AgentEntry", json!({ "id": agent }), &format!("agent '{agent}'")).await?;
    let bytes = told["rosterEntry"].as_str().and_then(|text| from_base64url(text).ok());
    let bytes = bytes.ok_or_else(|| Error::new(Exit::Refused, "agent_not_enrolled", "the agent has not enrolled yet"))?;
    let entry = open_roster_entry(&bytes);
    let (entry, pair) =
        entry.map_err(|error| refused("roster_entry_invalid", format!("the agent's roster entry does not hold: {error}")))?;
    if (entry.tenant, entry.agent) != (desk.tenant(), id) {
        return Err(refused(
            "roster_entry_of_another_agent",
            "the roster entry is of another tenant or agent than the control plane says".to_owned(),
        ));
    }
    if pair.keyid() != code {
        let message = format!("the agent's pair has the join code {}, not the one that was read out: do not vouch for it", pair.keyid());
        return Err(refused("vouch_for_another_pair", message));
    }
    let host = told["host"].as_str().map(visible).unwrap_or_default();
    let site = told.pointer("/site/name").and_then(Value::as_str).map(visible).unwrap_or_default();
    output::note(&format!(
        "Agent {id} of the site {} (\"{site}\", says the control plane), on the host \"{host}\", as it said itself.",
        entry.site
    ));
    output::note(&format!(
        "Its join code is {code}. With {threshold} such signatures its site believes it, and sends it keys; so does every site \
         that shares a key with it, as to the keys that policy places at both."
    ));
    if !signing.yes && !super::root::confirmed("Vouch for it? [y/N] ")? {
        return Err(Error::new(Exit::Refused, "not_confirmed", "nothing was signed"));
    }
    let vouch = AgentVouch::of_entry(&entry, code);
    let part = signing.sign(Signable::document::<AgentVouch>(), &vouch.payload())?;
    let input = json!({
        "agent": agent, "keyId": code.to_string(), "signer": part.keyid.to_string(), "signature": Base64(part.bytes).to_string(),
    });
    let payload = client.mutate(AGENT, "SignAgentVouch", input).await?;
    output::object(session.output, COLUMNS, payload.get("agent").unwrap_or(&Value::Null))
}
