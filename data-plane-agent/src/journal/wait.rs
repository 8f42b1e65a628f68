//! Waiting for a group to be durable, with one wake-up per worker thread and group.
//!
//! Waking a task of another thread is a system call. So tasks that wait are kept by the thread they wait on; the writer
//! wakes one of each thread, and that one wakes its neighbours, which is a push on a local queue.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

/// More worker threads than this share gates.
const GATES: usize = 16;

/// How long one that was woken may take to wake its neighbours.
pub(super) const PATIENCE: Duration = Duration::from_millis(2);

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static GATE: usize = NEXT_THREAD.fetch_add(1, Ordering::Relaxed) % GATES;
}

/// Who waits for which sequence number.
pub(super) struct Gates([Mutex<Vec<Waiting>>; GATES]);

struct Waiting {
    seq: u64,
    waker: Waker,
    /// When it was chosen to wake its neighbours, which it has not done yet.
    chosen: Option<Instant>,
}

/// The gate of a thread.
#[derive(Clone, Copy)]
pub(super) struct Gate(usize);

impl Gate {
    /// This thread's.
    pub(super) fn here() -> Self {
        Self(GATE.with(|gate| *gate))
    }

    /// One bit for each gate.
    pub(super) fn bit(self) -> u16 {
        1 << self.0
    }
}

impl Gates {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }

    /// Waits for a number; again for the same number replaces the waker.
    pub(super) fn enter(&self, gate: Gate, seq: u64, waker: &Waker) {
        let mut waiting = self.lock(gate.0);
        match waiting.iter_mut().find(|one| one.seq == seq) {
            Some(one) => one.waker.clone_from(waker),
            None => waiting.push(Waiting { seq, waker: waker.clone(), chosen: None }),
        }
    }

    /// Stops waiting for a number, and wakes neighbours whose number is not higher than `through`.
    pub(super) fn leave(&self, gate: Gate, seq: u64, through: u64) {
        let mut ready = Vec::new();
        self.lock(gate.0).retain(|one| {
            if one.seq != seq && one.seq <= through {
                ready.push(one.waker.clone());
            }
            one.seq != seq && one.seq > through
        });
        ready.into_iter().for_each(Waker::wake);
    }

    /// Wakes one of each gate whose number is not higher than `through`. Where the one chosen before has not come yet, its
    /// thread is busy and will see to the others; if that lasts too long, all are woken: it may be a future that nobody
    /// polls. Whether any were there.
    pub(super) fn release(&self, through: u64) -> bool {
        let mut any = false;
        for gate in 0..GATES {
            let chosen = {
                let mut waiting = self.lock(gate);
                let Some(first) = waiting.iter_mut().find(|one| one.seq <= through) else { continue };
                any = true;
                if let Some(since) = first.chosen {
                    if since.elapsed() >= PATIENCE {
                        drop(waiting);
                        self.release_gate(gate, through);
                    }
                    continue;
                }
                first.chosen = Some(Instant::now());
                first.waker.clone()
            };
            chosen.wake();
        }
        any
    }

    /// Wakes everybody whose number is not higher than `through`.
    pub(super) fn release_all(&self, through: u64) {
        (0..GATES).for_each(|gate| self.release_gate(gate, through));
    }

    fn release_gate(&self, gate: usize, through: u64) {
        let mut ready = Vec::new();
        self.lock(gate).retain(|one| {
            if one.seq <= through {
                ready.push(one.waker.clone());
            }
            one.seq > through
        });
        ready.into_iter().for_each(Waker::wake);
    }

    fn lock(&self, gate: usize) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.0[gate].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn one_is_woken_and_wakes_its_neighbours() {
        let gates = Gates::new();
        let counts: Vec<Arc<Count>> = (0..4).map(|_| Arc::default()).collect();
        let woken = || counts.iter().map(|count| count.0.load(Ordering::SeqCst)).collect::<Vec<_>>();
        for (seq, count) in (1..).zip(&counts) {
            gates.enter(Gate(3), seq, &Waker::from(count.clone()));
        }
        assert!(gates.release(3));
        assert_eq!(woken(), [1, 0, 0, 0]);
        gates.leave(Gate(3), 1, 3);
        assert_eq!(woken(), [1, 1, 1, 0]);
        assert!(!gates.release(3));
    }

    #[test]
    fn one_that_sleeps_on_does_not_hold_up_the_others() {
        let gates = Gates::new();
        let counts: Vec<Arc<Count>> = (0..2).map(|_| Arc::default()).collect();
        for (seq, count) in (1..).zip(&counts) {
            gates.enter(Gate(0), seq, &Waker::from(count.clone()));
        }
        gates.release(2);
        gates.release(2);
        assert_eq!(counts[1].0.load(Ordering::SeqCst), 0);
        std::thread::sleep(PATIENCE);
        gates.release(2);
        assert_eq!(counts[1].0.load(Ordering::SeqCst), 1);
    }
}
