-- Jobs in state 'raced' are closed early: their points are out of reach for every target.
-- `saved`: query results that they were closed without.
ALTER TABLE sweep_counts ADD COLUMN raced BIGINT NOT NULL DEFAULT 0, ADD COLUMN saved BIGINT NOT NULL DEFAULT 0;
