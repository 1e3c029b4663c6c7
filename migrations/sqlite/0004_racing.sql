-- Jobs in state 'raced' are closed early: their points are out of reach for every target.
-- `saved`: query results that they were closed without.
ALTER TABLE sweep_totals ADD COLUMN saved INTEGER NOT NULL DEFAULT 0;
