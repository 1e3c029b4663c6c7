-- The first schema. Append-only: what was released is never edited, the next change is the next file.
--
-- Results are shared between sweeps: they hang on recipe, ticks, query, decoding and judge, never on a sweep.

-- Interned fingerprints: what a result depends on, as a small number.
CREATE TABLE recipes (id INTEGER PRIMARY KEY, fingerprint BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE queries (id INTEGER PRIMARY KEY, fingerprint BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE decodings (id INTEGER PRIMARY KEY, fingerprint BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE judges (id INTEGER PRIMARY KEY, fingerprint BLOB NOT NULL UNIQUE) STRICT;

-- `revision` counts changes of `definition`, so that a parsed copy in memory knows whether it is current.
-- AUTOINCREMENT: a number is never used again, whatever is deleted.
CREATE TABLE sweeps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    recipe INTEGER NOT NULL REFERENCES recipes (id),
    decoding INTEGER NOT NULL REFERENCES decodings (id),
    judge INTEGER NOT NULL REFERENCES judges (id),
    created_at INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    definition TEXT NOT NULL
) STRICT;

CREATE TABLE sweep_queries (
    sweep INTEGER NOT NULL REFERENCES sweeps (id),
    ordinal INTEGER NOT NULL,
    query INTEGER NOT NULL REFERENCES queries (id),
    PRIMARY KEY (sweep, ordinal)
) STRICT, WITHOUT ROWID;

-- Sums over jobs, kept by a trigger; apart from `sweeps` because its rows are large.
CREATE TABLE sweep_totals (
    sweep INTEGER PRIMARY KEY REFERENCES sweeps (id),
    points INTEGER NOT NULL DEFAULT 0,
    results INTEGER NOT NULL DEFAULT 0,
    duplicate_results INTEGER NOT NULL DEFAULT 0,
    load_nanos INTEGER NOT NULL DEFAULT 0,
    merge_nanos INTEGER NOT NULL DEFAULT 0,
    evaluate_nanos INTEGER NOT NULL DEFAULT 0
) STRICT;

-- `ticks`: four bytes a coefficient, big-endian with the sign bit flipped, so that bytes compare as points do.
CREATE TABLE points (
    id INTEGER PRIMARY KEY,
    recipe INTEGER NOT NULL REFERENCES recipes (id),
    ticks BLOB NOT NULL,
    UNIQUE (recipe, ticks)
) STRICT;

-- A sweep's points in the order of their ticks, each with its tallies (packed, see store/src/codec.rs; NULL: no
-- result yet): reading every tally of a sweep is one range scan.
CREATE TABLE sweep_points (
    sweep INTEGER NOT NULL REFERENCES sweeps (id),
    ticks BLOB NOT NULL,
    point INTEGER NOT NULL REFERENCES points (id),
    search_likelihood BLOB,
    search_judgement BLOB,
    confirm_likelihood BLOB,
    confirm_judgement BLOB,
    PRIMARY KEY (sweep, ticks)
) STRICT, WITHOUT ROWID;
CREATE INDEX sweep_points_by_point ON sweep_points (point);

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    sweep INTEGER NOT NULL REFERENCES sweeps (id),
    point INTEGER NOT NULL REFERENCES points (id),
    rung TEXT NOT NULL,
    slice_start INTEGER NOT NULL,
    slice_end INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    token BLOB,
    expires INTEGER,
    worker TEXT,
    lost INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    judged INTEGER NOT NULL DEFAULT 0,
    -- What its reports brought.
    results INTEGER NOT NULL DEFAULT 0,
    duplicate_results INTEGER NOT NULL DEFAULT 0,
    load_nanos INTEGER NOT NULL DEFAULT 0,
    merge_nanos INTEGER NOT NULL DEFAULT 0,
    evaluate_nanos INTEGER NOT NULL DEFAULT 0,
    UNIQUE (sweep, point, rung, slice_start, slice_end)
) STRICT;
CREATE INDEX jobs_ready ON jobs (sweep, rung, priority DESC, id) WHERE state = 'ready';
CREATE INDEX jobs_leased ON jobs (expires) WHERE state = 'leased';
CREATE INDEX jobs_parked ON jobs (sweep) WHERE state = 'parked';
CREATE INDEX jobs_unjudged ON jobs (sweep) WHERE rung = 'generation' AND state = 'done' AND judged = 0;

-- Jobs by rung and state, kept by the triggers below: counting never scans jobs.
CREATE TABLE job_counts (
    sweep INTEGER NOT NULL REFERENCES sweeps (id),
    rung TEXT NOT NULL,
    state TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (sweep, rung, state)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER jobs_count_inserted AFTER INSERT ON jobs BEGIN
    INSERT INTO job_counts (sweep, rung, state, jobs) VALUES (new.sweep, new.rung, new.state, 1)
    ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER jobs_count_changed AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE sweep = old.sweep AND rung = old.rung AND state = old.state;
    INSERT INTO job_counts (sweep, rung, state, jobs) VALUES (new.sweep, new.rung, new.state, 1)
    ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;

-- Times stop at the largest number instead of failing: workers report them.
CREATE TRIGGER jobs_sums_changed
AFTER UPDATE OF results, duplicate_results, load_nanos, merge_nanos, evaluate_nanos ON jobs BEGIN
    UPDATE sweep_totals
    SET results = results + new.results - old.results,
        duplicate_results = duplicate_results + new.duplicate_results - old.duplicate_results,
        load_nanos = load_nanos + min(new.load_nanos - old.load_nanos, 9223372036854775807 - load_nanos),
        merge_nanos = merge_nanos + min(new.merge_nanos - old.merge_nanos, 9223372036854775807 - merge_nanos),
        evaluate_nanos =
            evaluate_nanos + min(new.evaluate_nanos - old.evaluate_nanos, 9223372036854775807 - evaluate_nanos)
    WHERE sweep = new.sweep;
END;

-- `judged` of a generation job says whether the sweep has the judgement job of the same point and slice.
CREATE TRIGGER jobs_judgement_inserted AFTER INSERT ON jobs WHEN new.rung = 'judgement' BEGIN
    UPDATE jobs SET judged = 1
    WHERE sweep = new.sweep AND point = new.point AND rung = 'generation'
      AND slice_start = new.slice_start AND slice_end = new.slice_end;
END;

CREATE TRIGGER jobs_generation_inserted AFTER INSERT ON jobs WHEN new.rung = 'generation' BEGIN
    UPDATE jobs SET judged = 1
    WHERE id = new.id
      AND EXISTS (
          SELECT 1 FROM jobs AS judgement
          WHERE judgement.sweep = new.sweep AND judgement.point = new.point AND judgement.rung = 'judgement'
            AND judgement.slice_start = new.slice_start AND judgement.slice_end = new.slice_end
      );
END;

-- Likelihood results of a point, a block per report (packed, see store/src/codec.rs). A query's scores stand in one
-- block only: whoever appends reads the point's blocks in the same transaction and leaves out what they hold.
CREATE TABLE score_blocks (
    id INTEGER PRIMARY KEY,
    point INTEGER NOT NULL REFERENCES points (id),
    scores BLOB NOT NULL
) STRICT;
CREATE INDEX score_blocks_by_point ON score_blocks (point);

-- `hash`: BLAKE3 of the text.
CREATE TABLE responses (
    point INTEGER NOT NULL REFERENCES points (id),
    decoding INTEGER NOT NULL REFERENCES decodings (id),
    query INTEGER NOT NULL REFERENCES queries (id),
    hash BLOB NOT NULL,
    tokens INTEGER NOT NULL,
    finish TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (point, decoding, query)
) STRICT, WITHOUT ROWID;

-- One verdict per query, response text and judge, wherever the response was given.
-- `label`: a level's index, -1 unclear, -2 refused.
CREATE TABLE verdicts (
    id INTEGER PRIMARY KEY,
    judge INTEGER NOT NULL REFERENCES judges (id),
    query INTEGER NOT NULL REFERENCES queries (id),
    hash BLOB NOT NULL,
    label INTEGER NOT NULL,
    confidence REAL,
    reason TEXT,
    UNIQUE (judge, query, hash)
) STRICT;

-- Which responses have been judged, and how: the judgement rung's results.
CREATE TABLE point_verdicts (
    point INTEGER NOT NULL REFERENCES points (id),
    decoding INTEGER NOT NULL REFERENCES decodings (id),
    judge INTEGER NOT NULL REFERENCES judges (id),
    query INTEGER NOT NULL REFERENCES queries (id),
    verdict INTEGER NOT NULL REFERENCES verdicts (id),
    PRIMARY KEY (point, decoding, judge, query)
) STRICT, WITHOUT ROWID;
