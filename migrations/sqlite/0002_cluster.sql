-- Several coordinators, workers that are remembered, sweeps with priorities that can be deleted.

-- What changes about a sweep while it runs; apart from `sweeps` because its rows are large.
-- `planner`: the secret of whoever plans its next points, or did last; held up to and at `planner_until`.
-- `term` counts the planners.
CREATE TABLE sweep_controls (
    sweep INTEGER PRIMARY KEY REFERENCES sweeps (id),
    priority INTEGER NOT NULL DEFAULT 0,
    planner BLOB,
    planner_until INTEGER NOT NULL DEFAULT 0,
    term INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO sweep_controls (sweep) SELECT id FROM sweeps;

-- When the job's latest lease was given out: of a worker's leases the first is the one it works on.
ALTER TABLE jobs ADD COLUMN leased_at INTEGER;

-- Failed attempts of all jobs so far; a retry, which sets a job's own counts back, does not lower them.
ALTER TABLE sweep_totals ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sweep_totals ADD COLUMN errors INTEGER NOT NULL DEFAULT 0;
UPDATE sweep_totals
SET lost = (SELECT coalesce(sum(j.lost), 0) FROM jobs AS j WHERE j.sweep = sweep_totals.sweep),
    errors = (SELECT coalesce(sum(j.errors), 0) FROM jobs AS j WHERE j.sweep = sweep_totals.sweep);

CREATE TRIGGER jobs_failures_changed AFTER UPDATE OF lost, errors ON jobs
WHEN new.lost > old.lost OR new.errors > old.errors BEGIN
    UPDATE sweep_totals
    SET lost = lost + max(new.lost - old.lost, 0),
        errors = errors + max(new.errors - old.errors, 0)
    WHERE sweep = new.sweep;
END;

CREATE TRIGGER jobs_count_deleted AFTER DELETE ON jobs BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE sweep = old.sweep AND rung = old.rung AND state = old.state;
END;

-- One row: the highest number that a deleted job had. A number is never used again.
CREATE TABLE deleted_jobs (only INTEGER PRIMARY KEY CHECK (only = 1), highest INTEGER NOT NULL) STRICT;
INSERT INTO deleted_jobs (only, highest) VALUES (1, 0);

-- Whether a verdict is still somebody's.
CREATE INDEX point_verdicts_by_verdict ON point_verdicts (verdict);

-- What workers and judges last said of themselves.
CREATE TABLE workers (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    device TEXT NOT NULL,
    host TEXT NOT NULL,
    version TEXT NOT NULL,
    finished INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    lost INTEGER NOT NULL,
    results INTEGER NOT NULL,
    rate REAL NOT NULL,
    problem TEXT,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
