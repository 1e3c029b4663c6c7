//! What goes wrong when: a function of a seed.

use std::fmt;
use std::time::Duration;

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Something that can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Victim {
    Postgres,
    Coordinator(usize),
    Worker(usize),
    Judge,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres => f.write_str("postgres"),
            Self::Coordinator(index) => write!(f, "coordinator-{index}"),
            Self::Worker(index) => write!(f, "worker-{index}"),
            Self::Judge => f.write_str("judge"),
        }
    }
}

/// One thing that is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// SIGKILL.
    Kill(Victim),
    /// Started again.
    Start(Victim),
    /// SIGSTOP, for longer than a lease.
    Freeze(Victim),
    /// SIGCONT.
    Thaw(Victim),
    /// Every connection of a worker or judge is cut.
    Cut(Victim),
    /// Every connection of a worker or judge is cut, and no other comes up for so long.
    Part(Victim, Duration),
    /// A worker's or judge's requests and answers take up to so long from now on.
    Slow(Victim, Duration),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(victim) => write!(f, "SIGKILL {victim}"),
            Self::Start(victim) => write!(f, "start   {victim}"),
            Self::Freeze(victim) => write!(f, "SIGSTOP {victim}"),
            Self::Thaw(victim) => write!(f, "SIGCONT {victim}"),
            Self::Cut(victim) => write!(f, "cut     {victim} off once"),
            Self::Part(victim, duration) => write!(f, "cut     {victim} off for {duration:?}"),
            Self::Slow(victim, delay) => write!(f, "slow    {victim}, up to {delay:?} each way"),
        }
    }
}

/// What is done when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    pub(crate) action: Action,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.3} s  {}", self.at.as_secs_f64(), self.action)
    }
}

/// How large the cluster is and how long it is troubled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) coordinators: usize,
    pub(crate) workers: usize,
    pub(crate) lease: Duration,
    /// Every trouble begins within this.
    pub(crate) length: Duration,
    /// Kills and cuts beyond one of each kind.
    pub(crate) further: usize,
}

/// The schedule of a seed, by time: each kind of process is killed and started again, a worker is frozen past its
/// lease, connections are cut, parted and slowed down; then as many more troubles of any kind.
pub(crate) fn schedule(seed: u64, shape: Shape) -> Vec<Event> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let coordinator =
        |random: &mut ChaCha8Rng| Victim::Coordinator(random.random_range(0..shape.coordinators));
    let worker = |random: &mut ChaCha8Rng| Victim::Worker(random.random_range(0..shape.workers));
    // One that pulls jobs, by chance the judge.
    let client = |random: &mut ChaCha8Rng| match random.random_range(0..=shape.workers) {
        index if index < shape.workers => Victim::Worker(index),
        _ => Victim::Judge,
    };
    let mut troubles = vec![
        Action::Kill(Victim::Postgres),
        Action::Kill(coordinator(&mut random)),
        Action::Kill(worker(&mut random)),
        Action::Kill(Victim::Judge),
        Action::Freeze(worker(&mut random)),
        Action::Cut(client(&mut random)),
        Action::Part(client(&mut random), millis(&mut random, 300, 1500)),
        Action::Slow(client(&mut random), millis(&mut random, 50, 400)),
    ];
    for _ in 0..shape.further {
        troubles.push(match random.random_range(0..8) {
            0 => Action::Kill(Victim::Postgres),
            1 => Action::Kill(coordinator(&mut random)),
            2 | 3 => Action::Kill(worker(&mut random)),
            4 => Action::Kill(Victim::Judge),
            5 => Action::Freeze(worker(&mut random)),
            6 => Action::Cut(client(&mut random)),
            _ => Action::Part(client(&mut random), millis(&mut random, 300, 1500)),
        });
    }
    troubles.shuffle(&mut random);
    let slot = shape.length / troubles.len() as u32;
    let mut events = Vec::new();
    for (index, action) in troubles.into_iter().enumerate() {
        let at = slot * index as u32 + slot.mul_f64(random.random_range(0.0..1.0));
        events.push(Event { at, action });
        let undone = match action {
            Action::Kill(victim) => Some((millis(&mut random, 0, 1200), Action::Start(victim))),
            Action::Freeze(victim) => {
                let longer = shape.lease + millis(&mut random, 500, 2000);
                Some((longer, Action::Thaw(victim)))
            }
            _ => None,
        };
        if let Some((after, action)) = undone {
            events.push(Event { at: at + after, action });
        }
    }
    events.sort_by_key(|event| event.at);
    events
}

fn millis(random: &mut ChaCha8Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..to))
}

#[test]
fn a_seed_has_one_schedule_with_every_kind_of_trouble() {
    let shape = Shape {
        coordinators: 2,
        workers: 3,
        lease: Duration::from_secs(2),
        length: Duration::from_secs(10),
        further: 4,
    };
    for seed in 0..100 {
        let events = schedule(seed, shape);
        assert_eq!(events, schedule(seed, shape));
        let some = |wanted: fn(&Action) -> bool| events.iter().any(|event| wanted(&event.action));
        assert!(some(|action| matches!(action, Action::Kill(Victim::Postgres))));
        assert!(some(|action| matches!(action, Action::Kill(Victim::Coordinator(_)))));
        assert!(some(|action| matches!(action, Action::Kill(Victim::Worker(_)))));
        assert!(some(|action| matches!(action, Action::Kill(Victim::Judge))));
        assert!(some(|action| matches!(action, Action::Freeze(Victim::Worker(_)))));
        assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at));
        let count = |wanted: fn(&Action) -> bool| events.iter().filter(|event| wanted(&event.action)).count();
        assert_eq!(
            count(|action| matches!(action, Action::Kill(_))),
            count(|action| matches!(action, Action::Start(_))),
            "whatever is killed is started again"
        );
    }
}
