use schema::{
    event::tenant::{TenantCreated, TenantRenamed},
    id::TenantId,
};

use super::*;
use crate::eventing::scenario::Scenario;

fn created() -> TenantCreated {
    TenantCreated { name: "acme".parse().unwrap(), display_name: None, creator: "svc_x".to_owned() }
}

fn tenant() -> Scenario<Tenant> {
    Scenario::of(TenantId::from_bits(9))
}

#[test]
fn a_tenant_is_created_once() {
    let create = TenantCommand::Create { name: "acme".parse().unwrap(), display_name: None, creator: "svc_x".to_owned() };
    let after = tenant().when(&create).then([created().into()]).when(&create).then_refused("tenant_exists");
    assert_eq!(after.state().fixed.as_ref().unwrap().id, TenantId::from_bits(9));
}

#[test]
fn people_may_call_it_something_else() {
    let rename = TenantCommand::Rename { display_name: Some("Acme".parse().unwrap()) };
    tenant().when(&rename).then_refused("tenant_not_found");
    let renamed = TenantRenamed { display_name: Some("Acme".parse().unwrap()) };
    tenant().given([created().into()]).when(&rename).then([renamed.into()]).when(&rename).then([]);
}
