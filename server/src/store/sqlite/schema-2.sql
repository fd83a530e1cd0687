-- Requests that created jobs and may come again, to be answered as before.
CREATE TABLE creation (
    caller      TEXT NOT NULL,
    id          TEXT NOT NULL,
    body        BLOB NOT NULL,       -- SHA-256
    job         INTEGER NOT NULL REFERENCES job (key),
    expire_time INTEGER NOT NULL,
    PRIMARY KEY (caller, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX creation_by_expiry ON creation (expire_time);
