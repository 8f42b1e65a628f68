//! Backs the whole vault up by itself, and removes backups that newer ones replace. What is there is looked up in the directory
//! each time: no start, and no backup made by hand, is forgotten. A backup is removed only after a newer one was written, read
//! back and found good.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use schema::{
    calendar::Calendar,
    clock::{Clock, Timestamp},
};
use service::{
    explain::{in_one_line, spelt},
    files::FileError,
};
use tokio_util::sync::CancellationToken;

use super::{
    BackupError,
    backups::{Backups, is_whole_of, list},
};
use crate::{
    config::BackupConfig,
    findings::{Findings, Found},
    policy::backup::NotBackedUp,
};

/// Under which name its findings stand.
const PART: &str = "backups";
/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long after one that failed the next is tried: at first, and at most.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1_800));

/// When backups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum When {
    Every(Duration),
    At(Calendar),
}

/// Which backups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Retention {
    count: Option<usize>,
    age: Option<Duration>,
}

impl Retention {
    /// Which of these, newest first, no rule keeps. The newest is always kept.
    fn replaced(self, created: &[Timestamp], now: Timestamp) -> Vec<usize> {
        if self == Self::default() {
            return Vec::new();
        }
        let beyond = |index: usize| self.count.is_none_or(|count| index >= count);
        let old = |created: Timestamp| self.age.is_none_or(|age| created.plus(age) < now);
        created.iter().enumerate().skip(1).filter(|(index, created)| beyond(*index) && old(**created)).map(|(index, _)| index).collect()
    }
}

/// How scheduled backups are, for health.
#[derive(Default)]
pub struct BackupHealth(RwLock<Option<String>>);

impl BackupHealth {
    /// What somebody should look at.
    pub fn note(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, note: Option<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = note;
    }
}

/// A backup of the whole vault, by this agent, that reads and is signed by it.
struct Good {
    path: PathBuf,
    created: Timestamp,
}

/// Makes backups when they are due.
pub struct Schedule {
    backups: Arc<Backups>,
    when: When,
    retention: Retention,
    clock: Arc<dyn Clock>,
    findings: Arc<Findings>,
    health: Arc<BackupHealth>,
}

impl Schedule {
    /// As these settings say; none when they name no time.
    pub fn new(
        config: &BackupConfig,
        backups: Arc<Backups>,
        clock: Arc<dyn Clock>,
        findings: Arc<Findings>,
        health: Arc<BackupHealth>,
    ) -> Option<Self> {
        let when = match (&config.at, config.every) {
            (Some(at), _) => When::At(at.clone()),
            (None, Some(every)) => When::Every(every.0),
            (None, None) => return None,
        };
        let count = config.keep.map(|keep| usize::try_from(keep.get()).unwrap_or(usize::MAX));
        let retention = Retention { count, age: config.keep_for.map(|period| period.0) };
        Some(Self { backups, when, retention, clock, findings, health })
    }

    /// Makes backups until `stopping` is cancelled.
    pub async fn run(self, stopping: CancellationToken) {
        let mut next = self.clock.now();
        let mut pause = AGAIN_AFTER.0;
        loop {
            if self.clock.now() >= next {
                let done = tokio::select! {
                    () = stopping.cancelled() => return,
                    done = self.once() => done,
                };
                let now = self.clock.now();
                next = match done {
                    Ok(due) => {
                        pause = AGAIN_AFTER.0;
                        due
                    }
                    // It is there as soon as somebody has made it.
                    Err(BackupError::NotAllowed(_)) => now.plus(AGAIN_AFTER.0),
                    Err(_) => {
                        let again = now.plus(pause);
                        pause = (pause * 2).min(AGAIN_AFTER.1);
                        again
                    }
                };
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Makes a backup if one is due, and removes what it replaces; gives when the next one is. What fails is told.
    pub async fn once(&self) -> Result<Timestamp, BackupError> {
        let mut found = Vec::new();
        let made = self.make(&mut found).await;
        if let Err(error) = &made
            && !matches!(error, BackupError::NotAllowed(NotBackedUp::NoPolicy))
        {
            metrics::counter!("freehold_backup_failures_total").increment(1);
            tracing::error!(error = error as &dyn std::error::Error, code = error.code(), "the scheduled backup of the vault was not made");
            found.push(Found { version: None, code: error.code(), detail: in_one_line(error) });
        }
        self.findings.replace(PART, found);
        let failed = made.as_ref().err().filter(|error| !matches!(error, BackupError::NotAllowed(NotBackedUp::NoPolicy)));
        let newest = failed.map(|_| self.newest());
        self.health.set(match (failed, newest) {
            (Some(error), newest) => {
                let age = match newest.flatten() {
                    Some(at) => format!("the newest backup of the whole vault is {} old", spelt(self.clock.now().since(at))),
                    None => "there is no backup of the whole vault".to_owned(),
                };
                Some(format!("{age}, and the one that is due was not made ({}): {error}", error.code()))
            }
            (None, _) => None,
        });
        made
    }

    async fn make(&self, found: &mut Vec<Found>) -> Result<Timestamp, BackupError> {
        let now = self.clock.now();
        let due = |good: &[Good]| good.first().and_then(|newest| self.after(newest.created.min(now))).unwrap_or(now);
        let good = self.good(found).await?;
        let waits = due(&good);
        if now < waits {
            self.measure(&good);
            return Ok(waits);
        }
        self.backups.whole("by schedule").await?;
        found.clear();
        let good = self.good(found).await?;
        // One that is not found again was not made.
        let newest = good.first().filter(|newest| newest.created >= now);
        let newest = newest.ok_or_else(|| BackupError::NotWritten {
            path: self.backups.directory.clone().unwrap_or_default(),
            detail: "it is not in the directory any more".to_owned(),
        })?;
        let next = self.after(newest.created).unwrap_or(newest.created);
        let created: Vec<Timestamp> = good.iter().map(|good| good.created).collect();
        for index in self.retention.replaced(&created, now) {
            let path = &good[index].path;
            match std::fs::remove_file(path) {
                Ok(()) => tracing::info!(path = %path.display(), "a backup that newer ones replace was removed"),
                Err(source) => {
                    let error = BackupError::from(FileError::Io { act: "remove", path: path.clone(), source });
                    tracing::error!(error = &error as &dyn std::error::Error, "a backup that newer ones replace is still there");
                    found.push(Found { version: None, code: error.code(), detail: in_one_line(&error) });
                }
            }
        }
        self.measure(&good);
        Ok(next)
    }

    /// When the next one is due after one at this time.
    fn after(&self, last: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::Every(every) => Some(last.plus(*every)),
            When::At(calendar) => calendar.next_after(last),
        }
    }

    /// The good backups of this agent's whole vault, newest first. What should be one and is none, is found.
    async fn good(&self, found: &mut Vec<Found>) -> Result<Vec<Good>, BackupError> {
        let Some(directory) = self.backups.directory.clone() else { return Err(BackupError::NoDirectory) };
        let (agent, pair) = (self.backups.identity.agent, self.backups.pair.clone());
        let looked = tokio::task::spawn_blocking(move || -> Result<_, FileError> {
            let (mut good, mut wrong) = (Vec::new(), Vec::new());
            if !directory.exists() {
                return Ok((good, wrong));
            }
            for (path, read) in list(&directory)? {
                if !is_whole_of(agent, &path) {
                    continue;
                }
                match read.and_then(|file| file.signed_by(pair.public()).map(|()| file.head.created)) {
                    Ok(created) => good.push(Good { path, created }),
                    Err(error) => wrong.push(Found { version: None, code: error.code(), detail: in_one_line(&error) }),
                }
            }
            good.sort_by_key(|good| std::cmp::Reverse(good.created));
            Ok((good, wrong))
        });
        match looked.await {
            Ok(looked) => {
                let (good, wrong) = looked?;
                found.extend(wrong);
                Ok(good)
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn newest(&self) -> Option<Timestamp> {
        let directory = self.backups.directory.as_ref()?;
        let all = list(directory).ok()?.into_iter();
        let own = all.filter(|(path, _)| is_whole_of(self.backups.identity.agent, path));
        own.filter_map(|(_, read)| Some(read.ok()?.head.created)).max()
    }

    fn measure(&self, good: &[Good]) {
        metrics::gauge!("freehold_backups_kept").set(good.len() as f64);
        if let Some(newest) = good.first() {
            metrics::gauge!("freehold_backup_made_seconds").set(newest.created.seconds() as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use schema::clock::ManualClock;

    use super::*;
    use crate::recovery::{
        backups::tests::{Bench, bench},
        file::BackupFile,
    };

    const DAY: Duration = Duration::from_secs(86_400);

    fn config(text: &str) -> BackupConfig {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.toml");
        let place = directory.path().join("backups");
        let head = "data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\n";
        fs::write(&file, format!("{head}[backup]\ndirectory = {place:?}\n{text}")).unwrap();
        crate::config::Config::load(Some(&file), [], &Default::default()).unwrap().backup
    }

    struct Scheduled {
        schedule: Schedule,
        clock: ManualClock,
        bench: Bench,
    }

    impl Scheduled {
        async fn new(settings: &str) -> Self {
            let mut bench = bench().await;
            let clock = bench.clock.clone();
            let directory = bench.backups.directory.clone();
            let other = Backups {
                directory: directory.clone(),
                vault: bench.backups.vault.clone(),
                current: bench.backups.current.clone(),
                identity: bench.backups.identity.clone(),
                pair: bench.backups.pair.clone(),
                clock: bench.backups.clock.clone(),
                ids: bench.backups.ids.clone(),
                acts: bench.backups.acts.clone(),
                writing: tokio::sync::Mutex::default(),
            };
            bench.backups.directory = directory;
            let findings = Arc::new(Findings::new(Arc::new(clock.clone()), Arc::default()));
            let schedule = Schedule::new(&config(settings), Arc::new(other), Arc::new(clock.clone()), findings, Arc::default()).unwrap();
            Self { schedule, clock, bench }
        }

        fn directory(&self) -> PathBuf {
            self.bench.backups.directory.clone().unwrap()
        }

        fn files(&self) -> Vec<PathBuf> {
            list(&self.directory()).unwrap().into_iter().map(|(path, _)| path).collect()
        }

        fn codes(&self) -> Vec<String> {
            self.schedule.findings.all().into_iter().map(|finding| finding.code).collect()
        }
    }

    #[test]
    fn what_is_kept_is_kept_by_number_or_by_age_and_the_newest_always() {
        let at = |days: u64| Timestamp::from_micros(1_767_225_600_000_000).plus(DAY * u32::try_from(days).unwrap());
        let created = [at(30), at(29), at(20), at(1)];
        let replaced = |count, age: Option<u64>| {
            let age = age.map(|days| DAY * u32::try_from(days).unwrap());
            Retention { count, age }.replaced(&created, at(30))
        };
        assert!(replaced(None, None).is_empty());
        assert_eq!(replaced(Some(2), None), [2, 3]);
        assert_eq!(replaced(Some(1), None), [1, 2, 3]);
        assert_eq!(replaced(None, Some(7)), [2, 3]);
        assert_eq!(replaced(Some(3), Some(7)), [3]);
        assert_eq!(replaced(Some(1), Some(15)), [3]);
        assert!(Retention { count: Some(1), age: Some(DAY) }.replaced(&[at(1)], at(300)).is_empty(), "the only one");
        assert!(Retention::default().replaced(&[], at(1)).is_empty());
    }

    #[tokio::test]
    async fn backups_are_made_when_they_are_due_and_replaced_ones_removed() {
        let scheduled = Scheduled::new("every = \"1d\"\nkeep = 2\n").await;
        // Nothing is believed yet: that is no failure of backups.
        assert_eq!(scheduled.schedule.once().await.unwrap_err().code(), "no_policy_yet");
        assert_eq!((scheduled.codes(), scheduled.schedule.health.note()), (Vec::new(), None));
        scheduled.bench.publish();
        let began = scheduled.clock.now();
        assert_eq!(scheduled.schedule.once().await.unwrap(), began.plus(DAY));
        assert_eq!(scheduled.schedule.once().await.unwrap(), began.plus(DAY), "it is not due");
        assert_eq!(scheduled.files().len(), 1);
        // One that somebody makes by hand counts; a backup of a single version does not, and is never removed.
        scheduled.clock.advance(DAY / 2);
        scheduled.bench.backups.whole("a test").await.unwrap();
        let single = scheduled.bench.backups.version(schema::id::KeyVersion::new(crate::policy::testing::KEY, 1)).await.unwrap();
        assert_eq!(scheduled.schedule.once().await.unwrap(), began.plus(DAY / 2).plus(DAY));
        scheduled.clock.advance(DAY * 3);
        scheduled.schedule.once().await.unwrap();
        let files = scheduled.files();
        assert_eq!(files.len(), 3, "two of the vault and one of a version: {files:?}");
        assert!(files.iter().any(|file| file.display().to_string() == single.file));
        let newest = BackupFile::read(&files[1]).unwrap();
        assert_eq!((newest.head.created, newest.open(&scheduled.bench.secret).unwrap().len()), (scheduled.clock.now(), 2));
    }

    #[tokio::test]
    async fn a_calendar_says_when_and_what_was_missed_is_made_up_for() {
        let scheduled = Scheduled::new("at = \"0 3 * * *\"\n").await;
        scheduled.bench.publish();
        let next = scheduled.schedule.once().await.unwrap();
        assert!(next > scheduled.clock.now() && next.to_string().contains("T03:00:00"), "{next}");
        scheduled.clock.advance(DAY * 5);
        scheduled.schedule.once().await.unwrap();
        assert_eq!(scheduled.files().len(), 2, "five were missed, and one makes up for them; none is removed");
    }

    #[tokio::test]
    async fn a_failure_is_told_until_it_is_over_and_removes_nothing() {
        let mut scheduled = Scheduled::new("every = \"1d\"\nkeep = 1\n").await;
        scheduled.bench.publish();
        scheduled.schedule.once().await.unwrap();
        let only = scheduled.files();
        scheduled.clock.advance(DAY);
        // The place is taken by something else.
        let (place, aside) = (scheduled.directory(), scheduled.bench.directory.path().join("aside"));
        fs::rename(&place, &aside).unwrap();
        fs::write(&place, b"no directory").unwrap();
        assert_eq!(scheduled.schedule.once().await.unwrap_err().code(), "backup_file");
        assert_eq!(scheduled.codes(), ["backup_file"]);
        assert!(scheduled.schedule.health.note().unwrap().contains("there is no backup of the whole vault"));
        fs::remove_file(&place).unwrap();
        fs::rename(&aside, &place).unwrap();
        assert_eq!(scheduled.files(), only);
        // No recovery key any more: the one there is stays, and its age is told.
        let recovery = scheduled.bench.set.recovery.take();
        scheduled.bench.publish();
        assert_eq!(scheduled.schedule.once().await.unwrap_err().code(), "no_recovery_key");
        assert!(scheduled.schedule.health.note().unwrap().starts_with("the newest backup of the whole vault is 24 hours old"));
        assert_eq!((scheduled.files(), scheduled.codes()), (only.clone(), vec!["no_recovery_key".to_owned()]));
        // Over: the next one is there, and only then the former one is removed. A damaged one is told and left alone.
        scheduled.bench.set.recovery = recovery;
        scheduled.bench.publish();
        let damaged = place.join(format!("{}.20250101T000000Z.fhb", scheduled.bench.backups.identity.agent));
        fs::write(&damaged, b"FHB1\n").unwrap();
        scheduled.schedule.once().await.unwrap();
        let files = scheduled.files();
        assert!(files.len() == 2 && files.contains(&damaged) && !files.contains(&only[0]), "{files:?}");
        assert_eq!((scheduled.codes(), scheduled.schedule.health.note()), (vec!["backup_damaged".to_owned()], None));
    }

    #[test]
    fn settings_without_a_time_schedule_nothing() {
        let text = config("keep = 3\n");
        assert!(text.at.is_none() && text.every.is_none());
    }
}
