-- Decisions of strategies that depend on results, each with what it had seen: enough to take it again.
-- `proposed`: points chosen before. Those were measured, but for the `pending` and the `given_up` ones.
-- `asked`: for how many points at most. Points stand as their ticks, one after another; those chosen best first.
CREATE TABLE choices (
    sweep INTEGER NOT NULL REFERENCES sweeps (id),
    proposed INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    pending BLOB NOT NULL,
    given_up BLOB NOT NULL,
    points BLOB NOT NULL,
    PRIMARY KEY (sweep, proposed)
) STRICT, WITHOUT ROWID;
