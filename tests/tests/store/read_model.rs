//! The read model: rebuilt, searched, asked as of a time, paged, waited for.

use std::{sync::Arc, time::Duration};

use control_plane::eventing::{
    store::Cursor,
    view::{Filter, Known, Page, QueryError, rebuild},
};
use freehold_tests::database::Engine;
use schema::{clock::Clock, id::ProjectId};
use sea_orm::ConnectionTrait;
use tokio_util::sync::CancellationToken;

use super::{
    verify::as_owner,
    world::{OTHER, TENANT, Thing, World, moved, named},
};

fn id(n: u128) -> ProjectId {
    ProjectId::from_bits(n)
}

fn first(count: usize, after: Option<String>) -> Page {
    Page::First { count, after }
}

/// Twenty things in two places.
async fn populate(world: &World) {
    for n in 0..20 {
        let place = if n % 2 == 0 { "even" } else { "odd" };
        world.happen(TENANT, id(n), 0, &[named(&format!("thing-{n}"), place), moved("open", &format!("l{}", n % 3))]).await;
        if n % 5 == 0 {
            world.happen(TENANT, id(n), 2, &[moved("closed", "l9")]).await;
        }
    }
    world.happen(OTHER, id(3), 0, &[named("thing-3", "odd")]).await;
}

async fn rows(world: &World) -> Vec<String> {
    let mut rows = Vec::new();
    for (sql, columns) in [
        (
            "SELECT tenant, kind, id, CAST(revision AS TEXT), CAST(position AS TEXT), CAST(valid_from AS TEXT), CAST(COALESCE(valid_to, -1) AS TEXT), state, data_key FROM views ORDER BY tenant, kind, id, revision",
            9,
        ),
        ("SELECT tenant, kind, id, CAST(revision AS TEXT) FROM view_terms ORDER BY tenant, kind, id, revision, term", 4),
    ] {
        for row in world.database.read().query_all_raw(world.database.sql(sql, vec![])).await.unwrap() {
            rows.push((0..columns).map(|n| row.try_get_by_index::<String>(n).unwrap()).collect::<Vec<_>>().join("|"));
        }
    }
    for sql in [
        "SELECT sealed, parent, name FROM views ORDER BY tenant, kind, id, revision",
        "SELECT term, term, term FROM view_terms ORDER BY tenant, kind, id, revision, term",
    ] {
        for row in world.database.read().query_all_raw(world.database.sql(sql, vec![])).await.unwrap() {
            rows.push((0..3).map(|n| hex::encode(row.try_get_by_index::<Vec<u8>>(n).unwrap())).collect::<Vec<_>>().join("|"));
        }
    }
    rows
}

pub(crate) async fn it_can_be_rebuilt_to_the_same_rows(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let (_, mut projector) = world.views();
    // Written as it came, in small steps, partly by a projector that remembers and partly by one that does not.
    world.happen(TENANT, id(100), 0, &[named("early", "x"), moved("a", "b")]).await;
    projector.catch_up().await.unwrap();
    world.happen(TENANT, id(100), 2, &[moved("b", "c"), moved("c", "c")]).await;
    projector.catch_up().await.unwrap();
    populate(&world).await;
    let (_, mut another) = world.views();
    another.catch_up().await.unwrap();
    let before = rows(&world).await;
    assert!(before.len() > 100);
    world.close().await;

    let world = World::open(&files).await;
    let owner = as_owner(&files, engine).await;
    let (_, mut projector) = owner.as_ref().unwrap_or(&world).views();
    let rebuilt = rebuild(&mut projector, false).await.unwrap();
    assert_eq!((rebuilt.position, rebuilt.switched), (world.store.head().await.unwrap().position(), true));
    assert_eq!(rows(&world).await, before);
}

pub(crate) async fn it_is_found_by_what_it_is_indexed_by(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    populate(&world).await;
    let (views, mut projector) = world.views();
    projector.catch_up().await.unwrap();
    let ids = async |filter: Filter| {
        let slice = views.page::<Thing>(TENANT, &filter, &first(100, None)).await.unwrap();
        // Names are sealed: counting does not look at them.
        if filter.name_contains.is_none() {
            assert_eq!(views.count::<Thing>(TENANT, &filter).await.unwrap(), slice.items.len() as u64);
        }
        slice.items.into_iter().map(|(_, view)| view.id.bits()).collect::<Vec<_>>()
    };
    assert_eq!(ids(Filter::default()).await.len(), 20);
    assert_eq!(ids(Filter { parent: Some("even".into()), ..Filter::default() }).await, (0..20).step_by(2).collect::<Vec<_>>());
    assert_eq!(ids(Filter { states: vec!["closed".into()], ..Filter::default() }).await, [0, 5, 10, 15]);
    assert_eq!(ids(Filter { states: vec!["closed".into(), "open".into()], ..Filter::default() }).await.len(), 20);
    let label = |value: &str| ("label".to_owned(), value.to_owned());
    assert_eq!(ids(Filter { terms: vec![label("l1")], ..Filter::default() }).await, [1, 4, 7, 13, 16, 19]);
    assert_eq!(
        ids(Filter { terms: vec![label("l9"), ("twice".into(), "1".into())], parent: Some("odd".into()), ..Filter::default() }).await,
        [5, 15]
    );
    assert_eq!(ids(Filter { terms: vec![label("l1"), label("l9")], ..Filter::default() }).await, [0; 0]);
    assert_eq!(ids(Filter { name_contains: Some("g-1".into()), ..Filter::default() }).await, [1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    let found = views.by_ids::<Thing>(TENANT, &[id(7), id(999), id(3), id(7)], None).await.unwrap();
    assert_eq!(found.iter().map(|view| view.id).collect::<Vec<_>>(), [id(3), id(7)]);
    assert_eq!(views.by_name::<Thing>(TENANT, Some("odd"), "thing-3", None).await.unwrap().unwrap().id, id(3));
    assert!(views.by_name::<Thing>(TENANT, Some("even"), "thing-3", None).await.unwrap().is_none());
    assert!(views.by_name::<Thing>(TENANT, None, "thing-3", None).await.unwrap().is_none());
    assert!(views.by_ids::<Thing>(OTHER, &[id(7)], None).await.unwrap().is_empty());
}

/// What was read before is brought up to the present by reading what changed, and is then what a whole reading gives.
pub(crate) async fn what_is_known_is_brought_up_to_the_present(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    populate(&world).await;
    let (views, mut projector) = world.views();
    projector.catch_up().await.unwrap();
    let mut known = Known::<Thing>::default();
    assert_eq!(views.refresh(TENANT, &mut known).await.unwrap(), 20);
    known.rest();
    assert_eq!(views.refresh(TENANT, &mut known).await.unwrap(), 0, "nothing changed");

    world.happen(TENANT, id(4), 2, &[moved("closed", "l7")]).await;
    world.happen(TENANT, id(19), 2, &[moved("a", "b"), moved("b", "c")]).await;
    world.happen(TENANT, id(100), 0, &[named("late", "even")]).await;
    world.happen(OTHER, id(5), 0, &[named("thing-5", "odd")]).await;
    projector.catch_up().await.unwrap();
    assert_eq!(views.refresh(TENANT, &mut known).await.unwrap(), 3);
    let whole = views.every::<Thing>(TENANT).await.unwrap();
    assert!(known.states().eq(&whole) && whole.len() == 21);
    let mut of_other = Known::<Thing>::default();
    assert_eq!(views.refresh(OTHER, &mut of_other).await.unwrap(), 2);
    assert_eq!(known.into_states(), whole);
}

pub(crate) async fn it_can_be_asked_as_of_a_time(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let before = world.clock.now();
    world.happen(TENANT, id(1), 0, &[named("a", "here")]).await;
    let created = world.clock.now();
    world.clock.advance(Duration::from_secs(60));
    world.happen(TENANT, id(1), 1, &[moved("open", "l")]).await;
    let opened = world.clock.now();
    world.happen(TENANT, id(1), 2, &[moved("shut", "m")]).await;
    let (views, mut projector) = world.views();
    projector.catch_up().await.unwrap();
    let state = async |time| views.by_id::<Thing>(TENANT, id(1), time).await.unwrap().map(|view| view.state.state);
    assert_eq!(state(Some(before)).await, None);
    assert_eq!(state(Some(created)).await.as_deref(), Some("new"));
    assert_eq!(state(Some(opened.minus(Duration::from_micros(1)))).await.as_deref(), Some("new"));
    assert_eq!(state(Some(opened)).await.as_deref(), Some("open"));
    assert_eq!(state(None).await.as_deref(), Some("shut"));
    let then = Filter { terms: vec![("label".into(), "l".into())], as_of: Some(opened), ..Filter::default() };
    assert_eq!(views.count::<Thing>(TENANT, &then).await.unwrap(), 1);
    assert_eq!(views.count::<Thing>(TENANT, &Filter { as_of: None, ..then }).await.unwrap(), 0);
    let history = views.history::<Thing>(TENANT, id(1)).await.unwrap();
    assert_eq!(history.iter().map(|view| view.revision).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(history.windows(2).all(|pair| pair[0].valid_to == Some(pair[1].valid_from)));
    assert_eq!(history[2].valid_to, None);
}

pub(crate) async fn pages_go_both_ways(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    populate(&world).await;
    let (views, mut projector) = world.views();
    projector.catch_up().await.unwrap();
    for filter in [Filter::default(), Filter { name_contains: Some("thing".into()), ..Filter::default() }] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let slice = views.page::<Thing>(TENANT, &filter, &first(7, after.clone())).await.unwrap();
            assert_eq!(slice.has_previous, after.is_some());
            after = slice.items.last().map(|(cursor, _)| cursor.clone());
            seen.extend(slice.items.iter().map(|(_, view)| view.id.bits()));
            if !slice.has_next {
                break;
            }
        }
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
        let (mut back, mut before) = (Vec::new(), None);
        loop {
            let slice = views.page::<Thing>(TENANT, &filter, &Page::Last { count: 7, before: before.clone() }).await.unwrap();
            before = slice.items.first().map(|(cursor, _)| cursor.clone());
            back.extend(slice.items.iter().rev().map(|(_, view)| view.id.bits()));
            if !slice.has_previous {
                break;
            }
        }
        assert_eq!(back, (0..20).rev().collect::<Vec<_>>());
    }
    for junk in ["", "x", "AAAA", "💥"] {
        let outcome = views.page::<Thing>(TENANT, &Filter::default(), &first(3, Some(junk.to_owned()))).await;
        assert!(matches!(outcome, Err(QueryError::InvalidCursor)));
    }
}

pub(crate) async fn waiting_is_bounded(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let (views, projector) = world.views();
    world.happen(TENANT, id(1), 0, &[named("a", "here")]).await;
    let head = world.store.head().await.unwrap();
    assert!(!views.wait_for(head, Duration::from_millis(50)).await.unwrap());
    let stop = CancellationToken::new();
    let running = tokio::spawn(projector.run(stop.clone()));
    assert!(views.wait_for(head, Duration::from_secs(20)).await.unwrap());
    world.happen(TENANT, id(1), 1, &[moved("open", "l")]).await;
    let token = world.keyring.tenant(TENANT).await.unwrap().position_token(world.store.head().await.unwrap()).unwrap();
    assert!(views.wait_for_token(TENANT, &token, Duration::from_secs(20)).await.unwrap());
    assert_eq!(views.by_id::<Thing>(TENANT, id(1), None).await.unwrap().unwrap().revision, 2);
    assert!(matches!(views.wait_for_token(OTHER, &token, Duration::from_secs(1)).await, Err(QueryError::InvalidCursor)));
    assert!(!views.wait_for(Cursor::at(head.position() + 1_000_000), Duration::from_millis(50)).await.unwrap());
    stop.cancel();
    running.await.unwrap();
}

/// Two replicas project one log at once; a third only waits.
pub(crate) async fn replicas_project_together(engine: Engine) {
    let (files, one) = World::new(engine).await;
    let (two, three) = (World::open(&files).await, World::open(&files).await);
    let stop = CancellationToken::new();
    let running: Vec<_> = [&one, &two].map(|world| tokio::spawn(world.views().1.run(stop.clone()))).into();
    let (one, two) = (Arc::new(one), Arc::new(two));
    let writers = (0..4u128).map(|n| {
        let world = Arc::clone(if n % 2 == 0 { &one } else { &two });
        tokio::spawn(async move {
            for round in 0..10 {
                let events = if round == 0 { vec![named("a", "b")] } else { vec![moved(&format!("s{round}"), "l")] };
                world.happen(TENANT, id(n), round, &events).await;
            }
        })
    });
    futures::future::join_all(writers).await.into_iter().for_each(Result::unwrap);
    let (views, _) = three.views();
    assert!(views.wait_for(three.store.head().await.unwrap(), Duration::from_secs(30)).await.unwrap());
    for n in 0..4 {
        assert_eq!(views.history::<Thing>(TENANT, id(n)).await.unwrap().len(), 10);
        assert_eq!(views.by_id::<Thing>(TENANT, id(n), None).await.unwrap().unwrap().state.state, "s9");
    }
    stop.cancel();
    futures::future::join_all(running).await.into_iter().for_each(Result::unwrap);
}
