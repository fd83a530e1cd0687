-- A retry may bring another spec for what has not succeeded: a job has several then, and each task and app knows which is its.

CREATE TABLE spec_of_job (
    job       INTEGER NOT NULL REFERENCES job (key),
    revision  INTEGER NOT NULL,      -- 1, and one more for each that a retry brought
    model     TEXT NOT NULL,         -- JSON
    encoded   BLOB NOT NULL,         -- as sent to agents
    cause     TEXT,                  -- counts in the newest
    template  TEXT,                  -- JSON
    overrides BLOB,
    warnings  TEXT NOT NULL,         -- JSON
    PRIMARY KEY (job, revision)
) STRICT;

INSERT INTO spec_of_job (job, revision, model, encoded, cause, template, overrides, warnings)
    SELECT job_spec.job, 1, job_spec.model, job_spec.encoded, job_spec.cause, job_spec.template, job_spec.overrides, job.warnings
    FROM job_spec JOIN job ON job.key = job_spec.job;

DROP TABLE job_spec;
ALTER TABLE spec_of_job RENAME TO job_spec;
ALTER TABLE job DROP COLUMN warnings;

-- Where a pull stood when it was first told of: what came since is its rate.
ALTER TABLE task ADD COLUMN pull_start_time INTEGER;
ALTER TABLE task ADD COLUMN pull_start_done INTEGER;
-- One that was under way has lost where it began.
UPDATE task SET pull_start_time = update_time, pull_start_done = pull_done WHERE pull_done IS NOT NULL;

-- The newest.
ALTER TABLE job ADD COLUMN spec_revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE task ADD COLUMN spec_revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE app ADD COLUMN spec_revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE app ADD COLUMN previous_spec_revision INTEGER;
UPDATE app SET previous_spec_revision = 1 WHERE previous_job IS NOT NULL;
