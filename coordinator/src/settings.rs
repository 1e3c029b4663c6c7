//! What a coordinator's operator can turn.

use std::time::Duration;

use avsweep_domain::FailureLimits;

/// How a coordinator works. None of these changes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a lease lasts from its start or renewal. Workers renew at a third of it.
    pub lease_duration: Duration,
    /// How often an attempt may fail before its job is parked.
    pub failure_limits: FailureLimits,
    /// The longest that a request for jobs waits for the first one.
    pub max_wait: Duration,
    /// How often the store is asked for ready jobs while requests wait: jobs can come from another coordinator. One
    /// question for all that wait.
    pub wait_poll_interval: Duration,
    /// The most jobs handed out at once.
    pub max_jobs_per_lease: u32,
    /// The most queries of one job: a larger slice becomes several jobs.
    pub max_queries_per_job: u32,
    /// The most jobs written in one transaction: it keeps reports waiting for as long as it takes.
    pub max_jobs_per_plan: usize,
    /// The strategy is asked for more points when fewer jobs than this wait for a worker.
    pub low_water: u64,
    /// How often the planner looks on its own.
    pub planner_interval: Duration,
    /// The shortest time between two looks of the planner, however often it is woken.
    pub planner_gap: Duration,
    /// How long the right to plan a sweep is held at a time. A coordinator that dies while it plans is replaced after
    /// this.
    pub planning_duration: Duration,
    /// How often expired leases are looked for.
    pub reaper_interval: Duration,
    /// The shortest time between two messages of a watched sweep.
    pub watch_interval: Duration,
    /// The span over which a watched sweep's rate is measured.
    pub rate_window: Duration,
    /// What an unchanged worker says is noted no more often than this (and often enough to tell that it is there).
    pub worker_note_interval: Duration,
    /// How long a worker is remembered after it was last seen.
    pub worker_memory: Duration,
    /// How often the clock is set by the database's, where several coordinators share one.
    pub clock_interval: Duration,
    /// Points whose results are read from the store at once.
    pub results_page_points: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(60),
            failure_limits: FailureLimits::default(),
            max_wait: Duration::from_secs(30),
            wait_poll_interval: Duration::from_secs(1),
            max_jobs_per_lease: 256,
            max_queries_per_job: 256,
            max_jobs_per_plan: 2048,
            low_water: 512,
            planner_interval: Duration::from_secs(1),
            planner_gap: Duration::from_millis(20),
            planning_duration: Duration::from_secs(10),
            reaper_interval: Duration::from_secs(1),
            watch_interval: Duration::from_millis(250),
            rate_window: Duration::from_secs(60),
            worker_note_interval: Duration::from_secs(5),
            worker_memory: Duration::from_secs(24 * 60 * 60),
            clock_interval: Duration::from_secs(30),
            results_page_points: 16,
        }
    }
}
