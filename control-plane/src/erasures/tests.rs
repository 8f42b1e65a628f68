use schema::{
    event::erasure::{PersonErased, TenantErased},
    id::{ErasureId, MemberId, TenantId},
};

use super::*;
use crate::eventing::scenario::Scenario;

const PERSON: Subject = Subject::Person(MemberId::from_bits(1));
const TENANT: Subject = Subject::Tenant(TenantId::from_bits(2));

fn erase(subject: Subject) -> ErasureCommand {
    ErasureCommand::Erase { subject, known: true }
}

fn erasure() -> Scenario<Erasure> {
    Scenario::of(ErasureId::from_bits(1))
}

#[test]
fn somebody_is_erased_once() {
    let person = PersonErased { person: MemberId::from_bits(1) };
    erasure().when(&erase(PERSON)).then([person.into()]).when(&erase(PERSON)).then_refused("already_erased");
    erasure().when(&erase(TENANT)).then([TenantErased { tenant: TenantId::from_bits(2) }.into()]);
}

#[test]
fn nobody_is_not_erased() {
    erasure().when(&ErasureCommand::Erase { subject: PERSON, known: false }).then_refused("nobody_to_erase");
}
