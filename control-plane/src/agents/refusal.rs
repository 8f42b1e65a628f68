//! Why an agent says no.

use crate::eventing::refusals;

refusals! {
    /// Why a command on an agent is turned down.
    AgentRefusal {
        Exists = "agent_exists", "this agent was already invited";
        NotFound = "agent_not_found", "there is no such agent";
        Lifetime = "invitation_lifetime_out_of_range" at "lifetimeSeconds", "an invitation is good for one minute to seven days; choose a lifetime in between";
        TokenWrong = "enrolment_token_wrong" at "token", "this enrolment token is not the one made for this agent; check that the whole enrolment file was copied, or invite again";
        TokenUsed = "enrolment_token_used" at "token", "this enrolment token was already used; if that was not you, revoke the agent at once; else invite again";
        TokenExpired = "enrolment_token_expired" at "token", "this enrolment token is no longer valid; invite the agent again";
        InvitationCancelled = "invitation_cancelled", "this invitation was taken back; invite the agent again";
        NotInvited = "agent_not_waiting", "only an invitation that was not used can be taken back; revoke the agent instead";
        OtherAgent = "roster_entry_of_another_agent" at "rosterEntry", "the roster entry names another agent than the enrolment file; start the agent again with an empty state folder and its own file";
        OtherSite = "roster_entry_of_another_site" at "rosterEntry", "the roster entry names another site than the invitation; start the agent again with the right enrolment file";
        OtherRoot = "roster_entry_of_another_root" at "rosterEntry", "the roster entry pins another root than the invitation; the tenant's root may have changed since: invite again";
        FounderMissing = "invitation_without_founder", "another agent joined this site first, and this invitation does not name it; invite again, so that the enrolment file tells whom to believe";
        NotEnrolled = "agent_not_enrolled", "the agent has not enrolled yet";
        OtherPair = "vouch_for_another_pair", "the vouch names another pair than the one the agent enrolled with; compare the join codes again";
        VouchesForItself = "agent_vouches_for_itself", "an agent cannot vouch for itself; ask another agent of the site, or the tenant's signers";
        EnrolmentVouch = "vouch_by_enrolment", "only enrolment itself makes this kind of vouch";
        NoSigners = "tenant_without_signers", "the tenant has no signers of its own; let an agent of the site vouch (freehold-agent vouch)";
        NotASigner { keyid: schema::encoding::Digest } = "vouch_by_no_signer" at "signer", "the pair {keyid} is none of those who sign policy for the tenant";
        VouchNotGenuine { keyid: schema::encoding::Digest } = "vouch_not_genuine" at "signature", "these are not signatures of {keyid} over the vouch for this agent";
        OtherCertificateKey = "certificate_key_changed" at "csr", "a renewal keeps the certificate's key; an agent that lost its key enrols again";
        OutboxSuperseded { taken: u64 } = "outbox_superseded" at "outbox", "a newer outbox of this agent was handed in already, number {taken}: let the agent write another one, which holds all of this one that is still to be said";
        OutboxNumberTaken { taken: u64 } = "outbox_number_taken" at "outbox", "another outbox of this agent was handed in under the same number, {taken}: if its host was not restored from a copy, somebody else has its keys; revoke the agent, and enrol that host again (freehold-agent enrol --again)";
        AlreadySuspended = "agent_already_suspended", "the agent is already suspended";
        NotSuspended = "agent_not_suspended", "the agent is not suspended, so there is nothing to resume";
        Suspended = "agent_suspended", "the agent is suspended; resume it first";
        Quarantined = "agent_quarantined", "two processes came with this agent's identity, so it is cut off for good: find out which hosts they are, revoke it, and let the right host enrol again (freehold-agent enrol --again)";
        Revoked = "agent_revoked", "the agent is revoked for good; invite another one";
        Hold = "agent_hold_is_suspension" at "reason", "certificateHold is temporary: suspend the agent instead of revoking it";
    }
}
