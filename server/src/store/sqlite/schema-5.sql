-- People and programs with client certificates.

CREATE TABLE user (
    name            TEXT PRIMARY KEY,
    role            TEXT NOT NULL,
    create_time     INTEGER NOT NULL,
    creator         TEXT NOT NULL,
    life            INTEGER NOT NULL,    -- seconds
    certificate_end INTEGER NOT NULL,
    revoke_time     INTEGER
) STRICT, WITHOUT ROWID;
