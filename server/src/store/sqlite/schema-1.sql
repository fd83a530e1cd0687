-- Times are microseconds since 1970, durations nanoseconds, enumerations the positions given in rows.rs.

CREATE TABLE node (
    name        TEXT PRIMARY KEY,
    labels      TEXT NOT NULL,       -- JSON
    enroll_time INTEGER NOT NULL,
    last_seen   INTEGER,
    info        TEXT                 -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE token (
    id          TEXT PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    expire_time INTEGER NOT NULL,
    labels      TEXT NOT NULL,       -- JSON
    node        TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX token_by_expiry ON token (expire_time);

CREATE TABLE job (
    key          INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    app          TEXT NOT NULL,
    max_parallel INTEGER NOT NULL,
    timeout      INTEGER NOT NULL,
    create_time  INTEGER NOT NULL,
    creator      TEXT NOT NULL,
    warnings     TEXT NOT NULL,      -- JSON
    control      INTEGER NOT NULL,   -- 0 run, 1 stop
    deadline     INTEGER,            -- while the clock runs
    remaining    INTEGER,            -- while it stands still
    round        INTEGER NOT NULL,
    start_time   INTEGER,
    end_time     INTEGER,
    version      INTEGER NOT NULL,
    pending      INTEGER NOT NULL,
    active       INTEGER NOT NULL,
    succeeded    INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    timed_out    INTEGER NOT NULL,
    cancelled    INTEGER NOT NULL
) STRICT;

-- QUEUED or RUNNING with something to assign.
CREATE INDEX job_assignable ON job (id) WHERE control = 0 AND pending > 0;
-- Not final.
CREATE INDEX job_unfinished ON job (id) WHERE pending + active + cancelled > 0;
CREATE INDEX job_by_deadline ON job (deadline) WHERE deadline IS NOT NULL;

-- Apart from the job's row, which is written with every change of a task.
CREATE TABLE job_spec (
    job     INTEGER PRIMARY KEY REFERENCES job (key),
    model   TEXT NOT NULL,           -- JSON
    encoded BLOB NOT NULL            -- as sent to agents
) STRICT;

-- The node is kept by name: tasks outlive nodes, and pages of tasks go by name.
CREATE TABLE task (
    job              INTEGER NOT NULL REFERENCES job (key),
    node             TEXT NOT NULL,
    attempt          INTEGER NOT NULL,
    state            INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    pull_done        INTEGER,
    pull_total       INTEGER,
    assign_time      INTEGER,
    update_time      INTEGER NOT NULL,
    end_time         INTEGER,
    failure          TEXT,           -- JSON
    history          TEXT,           -- JSON
    PRIMARY KEY (job, node)
) STRICT, WITHOUT ROWID;

-- The only index beside the key: an index over settled tasks would cost far more than it could ever save.
CREATE INDEX task_pending ON task (job, node) WHERE state = 0;

-- Keyed by name first, so that the rows of one job lie together.
CREATE TABLE app (
    name        TEXT NOT NULL,
    node        TEXT NOT NULL REFERENCES node (name),
    job         INTEGER NOT NULL REFERENCES job (key),
    attempt     INTEGER NOT NULL,
    revision    INTEGER NOT NULL,
    desired     INTEGER NOT NULL,    -- 0 present, 1 removing
    status      TEXT NOT NULL,       -- JSON
    update_time INTEGER NOT NULL,
    PRIMARY KEY (name, node)
) STRICT, WITHOUT ROWID;

CREATE INDEX app_by_node ON app (node, name);
