//! Random concurrent histories, judged afterwards by what a log is: one order in which every answer makes sense.
//!
//! Writers on a few shared streams expect right, stale and future revisions, send the same append again (their own or another's),
//! twice at once, or stop waiting for the answer. Readers read meanwhile. Followers are fast, slow, or stop anywhere and go on from
//! their cursor. The judge knows nothing of engines.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use control_plane::eventing::store::{Append, AppendError, Appended, Cursor, Stored};
use freehold_tests::database::Engine;
use futures::future::join_all;
use schema::{
    clock::{Ids, ManualIds, random},
    event::StreamId,
    id::{EventId, TenantId},
};

use super::{
    log::{assert_dense, everything},
    world::{OTHER, TENANT, World, append, fresh_stream},
};

const WRITERS: usize = 6;
const STEPS: usize = 30;
const STREAMS: usize = 4;

/// Seeds that are played; a failure names its own.
fn seeds(engine: Engine) -> std::ops::Range<u64> {
    match (std::env::var_os("FREEHOLD_SOAK"), engine) {
        (Some(_), _) => 1..201,
        // Each append is a call of its own there: one history takes as long as three elsewhere.
        (None, Engine::Kurrent) => 1..2,
        (None, _) => 1..4,
    }
}

/// What a client knows of one try.
struct Try {
    append: Arc<Append>,
    began: u64,
    ended: u64,
    /// None: nobody waited for it.
    answer: Option<Result<Appended, AppendError>>,
}

/// A stream as a reader saw it.
struct Seen {
    stream: usize,
    began: u64,
    events: Vec<EventId>,
}

#[derive(Default)]
struct History {
    clock: AtomicU64,
    tries: Mutex<Vec<Try>>,
    seen: Mutex<Vec<Seen>>,
    /// The newest revision that anybody was told.
    told: Mutex<[u64; STREAMS]>,
    over: AtomicBool,
}

impl History {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    async fn attempt(&self, world: &World, at: usize, append: &Arc<Append>, patience: Option<Duration>) {
        let began = self.now();
        let wanted = world.store.append(Append::clone(append));
        let answer = match patience {
            None => Some(wanted.await),
            Some(patience) => tokio::time::timeout(patience, wanted).await.ok(),
        };
        let ended = self.now();
        if let Some(Ok(appended)) = &answer {
            let mut told = self.told.lock().unwrap();
            told[at] = told[at].max(appended.revision);
        }
        self.tries.lock().unwrap().push(Try { append: Arc::clone(append), began, ended, answer });
    }
}

type Place = (TenantId, StreamId);
/// What was tried before, each with its stream: anybody may try it again.
type Past = Arc<Mutex<Vec<(usize, Arc<Append>)>>>;

/// Dice that fall the same for the same seed; what runs at once is up to the machine.
struct Dice(ManualIds);

impl Dice {
    fn throw(&self, sides: usize) -> usize {
        usize::from(u16::from_be_bytes(random::<2>(&self.0 as &dyn Ids))) % sides
    }
}

async fn writer(world: Arc<World>, history: Arc<History>, places: Arc<Vec<Place>>, past: Past, dice: Dice) {
    for _ in 0..STEPS {
        let again = if dice.throw(4) == 0 {
            let past = past.lock().unwrap();
            (!past.is_empty()).then(|| past[dice.throw(past.len())].clone())
        } else {
            None
        };
        let (at, write) = again.unwrap_or_else(|| {
            let at = dice.throw(STREAMS);
            let known = history.told.lock().unwrap()[at];
            let expected = match dice.throw(8) {
                0 => known.saturating_sub(dice.throw(5) as u64),
                1 => known + 1 + dice.throw(3) as u64,
                _ => known,
            };
            let (tenant, stream) = &places[at];
            let write = Arc::new(append(*tenant, stream, expected, 1 + dice.throw(4), "x"));
            past.lock().unwrap().push((at, Arc::clone(&write)));
            (at, write)
        });
        match dice.throw(8) {
            0 => drop(tokio::join!(history.attempt(&world, at, &write, None), history.attempt(&world, at, &write, None))),
            1 => history.attempt(&world, at, &write, Some(Duration::from_micros(dice.throw(2500) as u64))).await,
            _ => history.attempt(&world, at, &write, None).await,
        }
    }
}

async fn reader(world: Arc<World>, history: Arc<History>, places: Arc<Vec<Place>>, dice: Dice) {
    while !history.over.load(Ordering::SeqCst) {
        let stream = dice.throw(STREAMS);
        let began = history.now();
        let read = world.store.read_stream(places[stream].0, &places[stream].1, 0, 100_000).await.unwrap();
        let events = read.iter().map(|stored| stored.record.envelope().id).collect();
        history.seen.lock().unwrap().push(Seen { stream, began, events });
        tokio::time::sleep(Duration::from_millis(dice.throw(15) as u64)).await;
    }
}

#[derive(Clone, Copy)]
enum Pace {
    Fast,
    Slow,
    /// Stops anywhere, and has nothing then but its cursor.
    Broken,
}

async fn follower(world: Arc<World>, history: Arc<History>, pace: Pace, dice: Dice) -> Vec<Stored> {
    let (mut seen, mut cursor) = (Vec::new(), Cursor::START);
    loop {
        let over = history.over.load(Ordering::SeqCst);
        let step = async {
            world.store.follow(cursor).await.unwrap();
            let limit = if matches!(pace, Pace::Slow) { 3 } else { 1 + dice.throw(40) };
            world.store.read_all(cursor, limit).await.unwrap()
        };
        let patience = if matches!(pace, Pace::Broken) { dice.throw(4) as u64 } else { 1000 };
        match tokio::time::timeout(Duration::from_millis(patience), step).await {
            Ok(batch) => {
                assert!(batch.upto > cursor, "woken for nothing");
                cursor = batch.upto;
                seen.extend(batch.records);
            }
            // Asked in another way whether there is more, for one that never waits long enough to hear of it.
            Err(_) if over && world.store.head().await.unwrap() <= cursor => return seen,
            Err(_) if over => {
                let batch = world.store.read_all(cursor, 50).await.unwrap();
                cursor = batch.upto;
                seen.extend(batch.records);
            }
            Err(_) => {}
        }
        if matches!(pace, Pace::Slow) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(crate) async fn random_concurrent_histories_make_sense(engine: Engine) {
    let (files, first) = World::new(engine).await;
    let mut worlds = vec![Arc::new(first)];
    if engine != Engine::Sqlite {
        worlds.push(Arc::new(World::open(&files).await));
    }
    let mut before = 0;
    for seed in seeds(engine) {
        before = play(&worlds, seed, before).await;
    }
}

async fn play(worlds: &[Arc<World>], seed: u64, before: usize) -> usize {
    let history = Arc::new(History::default());
    let places: Arc<Vec<Place>> = Arc::new((0..STREAMS).map(|n| ([TENANT, OTHER][n % 2], fresh_stream())).collect());
    let past = Past::default();
    let dice = |n: usize| Dice(ManualIds::seeded(seed * 1000 + n as u64));
    let world = |n: usize| Arc::clone(&worlds[n % worlds.len()]);
    let readers: Vec<_> = (0..2).map(|n| tokio::spawn(reader(world(n), Arc::clone(&history), Arc::clone(&places), dice(50 + n)))).collect();
    let followers: Vec<_> = [Pace::Fast, Pace::Slow, Pace::Broken]
        .into_iter()
        .enumerate()
        .map(|(n, pace)| tokio::spawn(follower(world(n), Arc::clone(&history), pace, dice(80 + n))))
        .collect();
    let writers =
        (0..WRITERS).map(|n| tokio::spawn(writer(world(n), Arc::clone(&history), Arc::clone(&places), Arc::clone(&past), dice(n))));
    join_all(writers).await.into_iter().for_each(Result::unwrap);
    // What nobody waited for may still be under way: the same stream is asked until it says what became of it.
    let tried = past.lock().unwrap().clone();
    for (at, write) in tried {
        history.attempt(&worlds[0], at, &write, None).await;
    }
    history.over.store(true, Ordering::SeqCst);
    join_all(readers).await.into_iter().for_each(Result::unwrap);
    let followed: Vec<_> = join_all(followers).await.into_iter().map(Result::unwrap).collect();
    let all = everything(&worlds[0]).await;
    assert_dense(&all, all.len());
    for seen in followed {
        let places = |records: &[Stored]| records.iter().map(|stored| (stored.cursor, stored.record.envelope().id)).collect::<Vec<_>>();
        assert_eq!(places(&seen), places(&all), "seed {seed}: a follower saw another log");
    }
    judge(&history, &places, &all[before..], seed, worlds[0].engine);
    all.len()
}

fn judge(history: &History, places: &[Place], all: &[Stored], seed: u64, engine: Engine) {
    let mut streams: HashMap<Place, Vec<(EventId, Cursor)>> = HashMap::new();
    for stored in all {
        let envelope = stored.record.envelope();
        streams.entry((envelope.tenant, envelope.stream.clone())).or_default().push((envelope.id, stored.cursor));
    }
    let empty = Vec::new();
    let stream = |append: &Append| streams.get(&(append.tenant, append.stream.clone())).unwrap_or(&empty);
    let ids = |append: &Append| append.records.iter().map(|record| record.envelope().id).collect::<Vec<_>>();
    let there: HashSet<EventId> = all.iter().map(|stored| stored.record.envelope().id).collect();
    let tries = history.tries.lock().unwrap();

    let mut promised: HashSet<EventId> = HashSet::new();
    let mut answers: HashMap<EventId, Appended> = HashMap::new();
    let (mut kept, mut lost, mut unheard) = (0, 0, 0);
    for attempt in tries.iter() {
        let append = &attempt.append;
        let (events, start) = (ids(append), usize::try_from(append.expected).unwrap());
        let found = events.iter().filter(|event| there.contains(event)).count();
        assert!(found == 0 || found == events.len(), "seed {seed}: an append is there in part");
        match &attempt.answer {
            Some(Ok(appended)) => {
                kept += 1;
                let place = stream(append).get(start..start + events.len()).unwrap_or_default();
                assert_eq!(place.iter().map(|(event, _)| *event).collect::<Vec<_>>(), events, "seed {seed}: not where it was said to be");
                assert_eq!(*appended, Appended { revision: append.expected + events.len() as u64, cursor: place[place.len() - 1].1 });
                assert_eq!(*answers.entry(events[0]).or_insert(*appended), *appended, "seed {seed}: the same append had two answers");
                promised.extend(events);
            }
            Some(Err(AppendError::WrongRevision { expected, actual, .. })) => {
                lost += 1;
                assert!(*expected == append.expected && actual != expected, "seed {seed}: refused for a revision that it has");
                assert!(*actual <= stream(append).len() as u64, "seed {seed}: a revision that never was");
                // What others had been told before it began, it must have been judged by.
                let known = told_before(&tries, append, attempt.began);
                assert!(*actual >= known, "seed {seed}: judged by revision {actual}, and {known} had been told");
                // Too late is too late for ever; had it been kept, it would have been told so.
                assert!(actual < expected || found == 0, "seed {seed}: refused as too late, and kept");
            }
            // KurrentDB says no to some of two tries at once as to any fault; nothing is promised by it.
            Some(Err(AppendError::Unavailable { unknown: false, .. })) if engine == Engine::Kurrent => lost += 1,
            Some(Err(error)) => panic!("seed {seed}: {error:?}"),
            None => unheard += 1,
        }
    }
    // Nothing is there that nobody asked for.
    let asked: HashSet<EventId> = tries.iter().flat_map(|attempt| ids(&attempt.append)).collect();
    assert!(there.is_subset(&asked), "seed {seed}: a record that nobody wrote");
    assert!(promised.is_subset(&there));

    // Of two new appends, the one that was answered before the other began stands before it.
    let mut first: HashMap<EventId, (u64, u64, Cursor)> = HashMap::new();
    for attempt in tries.iter() {
        if let Some(Ok(appended)) = &attempt.answer {
            let entry = first.entry(ids(&attempt.append)[0]).or_insert((u64::MAX, u64::MAX, appended.cursor));
            entry.1 = entry.1.min(attempt.ended);
        }
        if let Some(entry) = first.get_mut(&ids(&attempt.append)[0]) {
            entry.0 = entry.0.min(attempt.began);
        }
    }
    for attempt in tries.iter() {
        if let Some(entry) = first.get_mut(&ids(&attempt.append)[0]) {
            entry.0 = entry.0.min(attempt.began);
        }
    }
    let mut by_end: Vec<_> = first.values().copied().collect();
    by_end.sort_by_key(|(_, ended, _)| *ended);
    for (began, _, cursor) in &by_end {
        let earlier = by_end.iter().take_while(|(_, ended, _)| ended < began).map(|(_, _, cursor)| *cursor).max();
        assert!(earlier.is_none_or(|earlier| earlier < *cursor), "seed {seed}: the log is in another order than time");
    }

    // Readers saw a beginning of the stream, with all that had been told before they asked.
    let seen = history.seen.lock().unwrap();
    for Seen { stream: at, began, events } in seen.iter() {
        let whole = streams.get(&places[*at]).unwrap_or(&empty);
        let beginning: Vec<_> = whole.iter().take(events.len()).map(|(event, _)| *event).collect();
        assert_eq!(&beginning, events, "seed {seed}: a reader saw another stream");
        let probe = append(places[*at].0, &places[*at].1, 0, 1, "");
        assert!(events.len() as u64 >= told_before(&tries, &probe, *began), "seed {seed}: a reader missed what had been told");
    }
    assert!(kept > 20 && lost > 5 && !seen.is_empty(), "seed {seed}: nothing happened: {kept} {lost} {unheard} {}", seen.len());
}

/// The newest revision of the stream that an answer before this moment told.
fn told_before(tries: &[Try], of: &Append, moment: u64) -> u64 {
    let same = |attempt: &&Try| attempt.append.tenant == of.tenant && attempt.append.stream == of.stream && attempt.ended < moment;
    let told = |attempt: &Try| match &attempt.answer {
        Some(Ok(appended)) => appended.revision,
        _ => 0,
    };
    tries.iter().filter(same).map(told).max().unwrap_or(0)
}

/// Several processes write as fast as they can; who follows has, at every cursor, everything before it.
pub(crate) async fn a_prefix_is_complete_whoever_writes(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let mut children: Vec<_> = (0..3).map(|_| super::crash::spawn(&files)).collect();
    for child in &mut children {
        // Nobody needs to hear what they say.
        let mut said = child.stdout.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    }
    let wanted = if std::env::var_os("FREEHOLD_SOAK").is_some() { 100_000 } else { 1500 };
    let (mut seen, mut cursor, mut looks) = (Vec::new(), Cursor::START, 0);
    let deadline = std::time::Instant::now() + Duration::from_secs(300);
    while seen.len() < wanted {
        assert!(std::time::Instant::now() < deadline, "the processes do not write");
        let head = world.store.follow(cursor).await.unwrap();
        let batch = world.store.read_all(cursor, 100).await.unwrap();
        assert!(!batch.records.is_empty() && batch.upto <= head.max(batch.upto));
        cursor = batch.upto;
        seen.extend(batch.records.iter().map(|stored| (stored.cursor, stored.record.envelope().id)));
        // Read again from the start, now and then: nothing has come to stand before what was seen.
        looks += 1;
        if looks % 8 == 0 {
            let again = world.store.read_all(Cursor::START, seen.len()).await.unwrap();
            let again: Vec<_> = again.records.iter().map(|stored| (stored.cursor, stored.record.envelope().id)).collect();
            assert_eq!(again, seen, "something came to stand in the past");
        }
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let all = everything(&world).await;
    assert_dense(&all, all.len());
    let all: Vec<_> = all.iter().map(|stored| (stored.cursor, stored.record.envelope().id)).collect();
    assert_eq!(seen, all[..seen.len()]);
}
