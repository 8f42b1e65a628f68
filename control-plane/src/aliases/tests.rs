use schema::{
    event::alias::{AliasCreated, AliasMoved, AliasRetired},
    id::{AliasId, KeyId, ProjectId},
};

use super::*;
use crate::eventing::scenario::Scenario;

const HERE: ProjectId = ProjectId::from_bits(1);
const ELSEWHERE: ProjectId = ProjectId::from_bits(2);
const KEY: KeyId = KeyId::from_bits(1);
const OTHER: KeyId = KeyId::from_bits(2);

fn create(key_project: ProjectId, name_is_a_key: bool) -> AliasCommand {
    AliasCommand::Create {
        project: HERE,
        name: "current".parse().unwrap(),
        key: KEY,
        key_project,
        name_is_a_key,
        name_is_a_composite: false,
    }
}

fn created() -> AliasCreated {
    AliasCreated { project: HERE, name: "current".parse().unwrap(), key: KEY }
}

fn alias() -> Scenario<Alias> {
    Scenario::of(AliasId::from_bits(1))
}

#[test]
fn an_alias_stays_inside_its_project() {
    alias().when(&create(ELSEWHERE, false)).then_refused("alias_crosses_projects");
    alias().when(&create(HERE, true)).then_refused("alias_is_a_key_name");
    let mut of_composite = create(HERE, false);
    if let AliasCommand::Create { name_is_a_composite, .. } = &mut of_composite {
        *name_is_a_composite = true;
    }
    alias().when(&of_composite).then_refused("alias_is_a_composite_name");
    let there = AliasCommand::Move { key: OTHER, key_project: ELSEWHERE };
    alias().given([created().into()]).when(&there).then_refused("alias_crosses_projects");
}

#[test]
fn it_is_made_moved_retired_and_made_again() {
    let to_other = AliasCommand::Move { key: OTHER, key_project: HERE };
    alias().when(&to_other).then_refused("alias_not_found");
    alias()
        .when(&create(HERE, false))
        .then([created().into()])
        .when(&create(HERE, false))
        .then_refused("alias_exists")
        .when(&to_other)
        .then([AliasMoved { key: OTHER }.into()])
        .when(&to_other)
        .then([])
        .when(&AliasCommand::Retire)
        .then([AliasRetired {}.into()])
        .when(&AliasCommand::Retire)
        .then_refused("alias_not_found")
        .when(&to_other)
        .then_refused("alias_not_found")
        .when(&create(HERE, false))
        .then([AliasMoved { key: KEY }.into()]);
}
