-- Decisions of strategies that depend on results, each with what it had seen: enough to take it again.
-- `proposed`: points chosen before. Those were measured, but for the `pending` and the `given_up` ones.
-- `asked`: for how many points at most. Points stand as their ticks, one after another; those chosen best first.
CREATE TABLE choices (
    sweep BIGINT NOT NULL REFERENCES sweeps (id),
    proposed BIGINT NOT NULL,
    asked BIGINT NOT NULL,
    pending BYTEA NOT NULL,
    given_up BYTEA NOT NULL,
    points BYTEA NOT NULL,
    PRIMARY KEY (sweep, proposed)
);
