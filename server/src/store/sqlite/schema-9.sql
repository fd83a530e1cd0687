-- Watches that were cut off go on from what they have seen. The job's version with which each task last changed; 0 for
-- those that have not changed since before it was kept.
ALTER TABLE task ADD COLUMN version INTEGER NOT NULL DEFAULT 0;

-- One row: a number that no other database has, so that nobody goes on in the history of another one.
CREATE TABLE history (
    epoch INTEGER NOT NULL
) STRICT;

INSERT INTO history (epoch) VALUES (random());
