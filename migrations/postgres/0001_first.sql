-- The first schema. Append-only: what was released is never edited, the next change is the next file.
--
-- Results are shared between sweeps: they hang on recipe, ticks, query, decoding and judge, never on a sweep.
-- Text that is compared or sorted is so by bytes (COLLATE "C"), as in the other form of the store. Text that models
-- and judges write is BYTEA: it may hold a zero character, which TEXT cannot.
-- Tables that a report writes to have no foreign keys: each would lock and look up the row that the report has in hand.

-- Interned fingerprints: what a result depends on, as a small number.
CREATE TABLE recipes (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, fingerprint BYTEA NOT NULL UNIQUE);
CREATE TABLE queries (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, fingerprint BYTEA NOT NULL UNIQUE);
CREATE TABLE decodings (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, fingerprint BYTEA NOT NULL UNIQUE);
CREATE TABLE judges (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, fingerprint BYTEA NOT NULL UNIQUE);

-- `revision` counts changes of `definition`, so that a parsed copy in memory knows whether it is current.
CREATE TABLE sweeps (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL UNIQUE,
    state TEXT COLLATE "C" NOT NULL,
    priority INTEGER NOT NULL,
    fingerprint BYTEA NOT NULL,
    recipe BIGINT NOT NULL REFERENCES recipes (id),
    decoding BIGINT NOT NULL REFERENCES decodings (id),
    judge BIGINT NOT NULL REFERENCES judges (id),
    created_at BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    definition TEXT NOT NULL
);
CREATE INDEX sweeps_running ON sweeps (id) WHERE state = 'running';

-- `planner`: the secret of whoever plans the sweep's next points, or did last; held up to and at `planner_until`.
-- `term` counts the planners.
CREATE TABLE sweep_planners (
    sweep BIGINT PRIMARY KEY REFERENCES sweeps (id),
    planner BYTEA,
    planner_until BIGINT NOT NULL DEFAULT 0,
    term BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE sweep_queries (
    sweep BIGINT NOT NULL REFERENCES sweeps (id),
    ordinal BIGINT NOT NULL,
    query BIGINT NOT NULL REFERENCES queries (id),
    PRIMARY KEY (sweep, ordinal)
);

-- Sums over a sweep's jobs and reports. Whoever changes a job changes them in the same statement or transaction.
-- Each server process has a row of its own (`shard`; a few may share one), or every report would wait for the one
-- before it to be flushed. A single row may hold negative counts, their sum never does.
CREATE TABLE sweep_counts (
    sweep BIGINT NOT NULL,
    rung TEXT COLLATE "C" NOT NULL,
    shard INTEGER NOT NULL,
    ready BIGINT NOT NULL DEFAULT 0,
    leased BIGINT NOT NULL DEFAULT 0,
    done BIGINT NOT NULL DEFAULT 0,
    parked BIGINT NOT NULL DEFAULT 0,
    -- Points are counted with the rung of the job that brought them.
    points BIGINT NOT NULL DEFAULT 0,
    -- Failed attempts of all jobs so far; a retry does not lower them.
    lost BIGINT NOT NULL DEFAULT 0,
    errors BIGINT NOT NULL DEFAULT 0,
    results BIGINT NOT NULL DEFAULT 0,
    duplicate_results BIGINT NOT NULL DEFAULT 0,
    load_nanos BIGINT NOT NULL DEFAULT 0,
    merge_nanos BIGINT NOT NULL DEFAULT 0,
    evaluate_nanos BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (sweep, rung, shard)
) WITH (fillfactor = 30);

-- `ticks`: four bytes a coefficient, big-endian with the sign bit flipped, so that bytes compare as points do.
-- `version` counts what changes about the point's results and about whose they are: a report that was made ready
-- against an older one is made anew.
CREATE TABLE points (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recipe BIGINT NOT NULL REFERENCES recipes (id),
    ticks BYTEA NOT NULL,
    version BIGINT NOT NULL DEFAULT 0,
    UNIQUE (recipe, ticks)
) WITH (fillfactor = 70);

-- A sweep's points in the order of their ticks, each with its tallies (packed, see store/src/codec.rs; NULL: no
-- result yet): reading every tally of a sweep is one range scan.
CREATE TABLE sweep_points (
    sweep BIGINT NOT NULL,
    ticks BYTEA NOT NULL,
    point BIGINT NOT NULL,
    search_likelihood BYTEA,
    search_judgement BYTEA,
    confirm_likelihood BYTEA,
    confirm_judgement BYTEA,
    PRIMARY KEY (sweep, ticks)
) WITH (fillfactor = 40);
CREATE INDEX sweep_points_by_point ON sweep_points (point);

-- `judged` of a generation job says whether the sweep has the judgement job of the same point and slice.
-- `leased_at`: when its latest lease was given out: of a worker's leases the first is the one it works on.
CREATE TABLE jobs (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sweep BIGINT NOT NULL,
    point BIGINT NOT NULL,
    rung TEXT COLLATE "C" NOT NULL,
    slice_start BIGINT NOT NULL,
    slice_end BIGINT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    judged BOOLEAN NOT NULL DEFAULT FALSE,
    attempt BIGINT NOT NULL DEFAULT 0,
    token BYTEA,
    expires BIGINT,
    leased_at BIGINT,
    worker TEXT COLLATE "C",
    lost BIGINT NOT NULL DEFAULT 0,
    errors BIGINT NOT NULL DEFAULT 0,
    last_error TEXT,
    UNIQUE (sweep, point, rung, slice_start, slice_end)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
-- Workers and judges never claim each other's jobs, so each has its own order.
CREATE INDEX jobs_ready_to_evaluate ON jobs (sweep, priority DESC, id)
    WHERE state = 'ready' AND rung <> 'judgement';
CREATE INDEX jobs_ready_to_judge ON jobs (sweep, priority DESC, id)
    WHERE state = 'ready' AND rung = 'judgement';
-- Without `expires`: renewing a lease then touches no index. Few jobs are leased at a time.
CREATE INDEX jobs_leased ON jobs (sweep, id) WHERE state = 'leased';
CREATE INDEX jobs_parked ON jobs (sweep, id) WHERE state = 'parked';
CREATE INDEX jobs_unjudged ON jobs (sweep, id) WHERE rung = 'generation' AND state = 'done' AND NOT judged;

-- Likelihood results of a point, a block per report (packed, see store/src/codec.rs). A query's scores stand in one
-- block only: whoever appends has seen the point's blocks of the same `version`.
CREATE TABLE score_blocks (point BIGINT NOT NULL, scores BYTEA NOT NULL);
-- Random digits do not shrink.
ALTER TABLE score_blocks ALTER COLUMN scores SET STORAGE EXTERNAL;
CREATE INDEX score_blocks_by_point ON score_blocks (point);

-- `hash`: BLAKE3 of the text.
CREATE TABLE responses (
    point BIGINT NOT NULL,
    decoding BIGINT NOT NULL,
    query BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    tokens BIGINT NOT NULL,
    finish TEXT COLLATE "C" NOT NULL,
    text BYTEA NOT NULL,
    PRIMARY KEY (point, decoding, query)
);

-- One verdict per query, response text and judge, wherever the response was given.
-- `label`: a level's index, -1 unclear, -2 refused.
CREATE TABLE verdicts (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    judge BIGINT NOT NULL,
    query BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    label BIGINT NOT NULL,
    confidence DOUBLE PRECISION,
    reason BYTEA,
    UNIQUE (judge, query, hash)
);

-- Which responses have been judged, and how: the judgement rung's results. The key keeps a verdict that is being
-- given to a point from being deleted with another's.
CREATE TABLE point_verdicts (
    point BIGINT NOT NULL,
    decoding BIGINT NOT NULL,
    judge BIGINT NOT NULL,
    query BIGINT NOT NULL,
    verdict BIGINT NOT NULL REFERENCES verdicts (id),
    PRIMARY KEY (point, decoding, judge, query)
);
CREATE INDEX point_verdicts_by_verdict ON point_verdicts (verdict);

-- What workers and judges last said of themselves.
CREATE TABLE workers (
    name TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    device TEXT NOT NULL,
    host TEXT NOT NULL,
    version TEXT NOT NULL,
    finished BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    lost BIGINT NOT NULL,
    results BIGINT NOT NULL,
    rate DOUBLE PRECISION NOT NULL,
    problem TEXT,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL
) WITH (fillfactor = 50);
