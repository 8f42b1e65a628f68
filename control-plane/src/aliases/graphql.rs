//! Aliases in GraphQL: another name of a key. They answer with the key.

use async_graphql::{Context, ID, InputObject, Object, Result};
use schema::{
    id::{AliasId, KeyId, ProjectId},
    name::Name,
};

use super::{Alias, AliasCommand};
use crate::{
    access::permit::Question,
    composites::Composite,
    graphql::{
        api::{Api, Done, no_such, options},
        payload::{Common, CommonNew, Outcome, Stop, field, payloads},
    },
    keys::{Key, graphql::KeyNode},
    naming,
};

payloads!(key: KeyNode => CreateAliasPayload, MoveAliasPayload, RetireAliasPayload);

/// Another name of a key.
#[derive(InputObject)]
pub struct CreateAliasInput {
    /// Id or name.
    project: ID,
    /// The alias; not the name of a key of the project.
    name: String,
    /// The key it stands for: id or `project/name`.
    key: ID,
    #[graphql(flatten)]
    common: CommonNew,
}

/// An alias that shall stand for another key.
#[derive(InputObject)]
pub struct MoveAliasInput {
    /// Id or name.
    project: ID,
    /// The alias.
    name: String,
    /// The key it stands for from now on: id or `project/name`.
    key: ID,
    #[graphql(flatten)]
    common: Common,
}

/// An alias that shall stand for nothing.
#[derive(InputObject)]
pub struct RetireAliasInput {
    /// Id or name.
    project: ID,
    /// The alias.
    name: String,
    #[graphql(flatten)]
    common: Common,
}

/// Changing aliases.
#[derive(Default)]
pub struct AliasMutation;

#[Object]
impl AliasMutation {
    /// Gives a key another name.
    async fn create_alias(&self, ctx: &Context<'_>, input: CreateAliasInput) -> Result<CreateAliasPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let (project, name, id) = alias(api, &input.project, &input.name)?;
            let (key, key_project) = key(api, &input.key).await?;
            let name_is_a_key = api.state::<Key>(naming::key_id(&api.keys, project, &name), None).await?.is_some();
            let name_is_a_composite = api.state::<Composite>(naming::composite_id(&api.keys, project, &name), None).await?.is_some();
            let command = AliasCommand::Create { project, name, key, key_project, name_is_a_key, name_is_a_composite };
            run(api, "createAlias", project, id, key, command, input.common.into()).await
        };
        CreateAliasPayload::of(attempt.await)
    }

    /// Lets an alias stand for another key.
    async fn move_alias(&self, ctx: &Context<'_>, input: MoveAliasInput) -> Result<MoveAliasPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let (project, _, id) = alias(api, &input.project, &input.name)?;
            let (key, key_project) = key(api, &input.key).await?;
            run(api, "moveAlias", project, id, key, AliasCommand::Move { key, key_project }, input.common).await
        };
        MoveAliasPayload::of(attempt.await)
    }

    /// Lets an alias stand for nothing. Answers with the key it stood for.
    async fn retire_alias(&self, ctx: &Context<'_>, input: RetireAliasInput) -> Result<RetireAliasPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let (project, _, id) = alias(api, &input.project, &input.name)?;
            let present = api.state::<Alias>(id, None).await?.and_then(|view| view.state.key);
            let key = present.ok_or_else(|| no_such("name", "alias"))?;
            run(api, "retireAlias", project, id, key, AliasCommand::Retire, input.common).await
        };
        RetireAliasPayload::of(attempt.await)
    }
}

fn alias(api: &Api, project: &str, name: &str) -> Result<(ProjectId, Name, AliasId), Stop> {
    let project = api.project("project", project)?;
    let name: Name = field("name", name)?;
    let id = naming::alias_id(&api.keys, project, &name);
    Ok((project, name, id))
}

async fn key(api: &Api, reference: &str) -> Result<(KeyId, ProjectId), Stop> {
    let id = api.key("key", reference).await?;
    let fixed = api.state::<Key>(id, None).await?.and_then(|view| view.state.fixed);
    fixed.map(|fixed| (id, fixed.project)).ok_or_else(|| no_such("key", "key"))
}

async fn run(
    api: &Api,
    action: &'static str,
    project: ProjectId,
    id: AliasId,
    key: KeyId,
    command: AliasCommand,
    common: Common,
) -> Result<Done<KeyNode>, Stop> {
    let question = Question::new(action, "Alias", id).within("Project", project);
    let handled = api.handle::<Alias>(&api.ctx, id, command, question, options(common, Vec::new())?).await?;
    let pending = !api.readable(handled.cursor).await?;
    let outcome = Outcome { user_errors: Vec::new(), position: Some(handled.position), pending };
    Ok(Done { node: api.view::<Key>(Some(key), None).await?, outcome, replayed: handled.replayed })
}
