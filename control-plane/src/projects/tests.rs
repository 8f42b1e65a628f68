use schema::{
    event::project::{ProjectCreated, ProjectResumed, ProjectSuspended},
    id::ProjectId,
};

use super::*;
use crate::eventing::{aggregate::Aggregate, scenario::Scenario};

fn project() -> Scenario<Project> {
    Scenario::of(ProjectId::from_bits(1))
}

fn created() -> ProjectCreated {
    ProjectCreated { name: "payments".parse().unwrap(), display_name: None }
}

#[test]
fn a_name_is_used_once() {
    let create = ProjectCommand::Create { name: "payments".parse().unwrap(), display_name: None };
    let after = project().when(&create).then([created().into()]).when(&create).then_refused("project_exists");
    assert_eq!(after.state().index().name.as_deref(), Some("payments"));
}

#[test]
fn one_command_stops_a_project_and_starts_it_again() {
    let stop = ProjectCommand::SetSuspended { suspended: true, reason: None };
    let start = ProjectCommand::SetSuspended { suspended: false, reason: None };
    project().when(&stop).then_refused("project_not_found");
    let stopped = project()
        .given([created().into()])
        .when(&start)
        .then_refused("project_not_suspended")
        .when(&stop)
        .then([ProjectSuspended { reason: None }.into()])
        .when(&stop)
        .then_refused("project_already_suspended");
    assert_eq!(stopped.state().index().state.as_deref(), Some("suspended"));
    let started = stopped.when(&start).then([ProjectResumed { reason: None }.into()]);
    assert_eq!(started.state().suspended, None);
    assert!(started.state().resumed.is_some(), "policy lifts what came before this");
}
