-- Tokens that are good for several machines, and machines that wait for approval.

ALTER TABLE token ADD COLUMN create_time INTEGER NOT NULL DEFAULT 0;
ALTER TABLE token ADD COLUMN creator TEXT NOT NULL DEFAULT '';
ALTER TABLE token ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
ALTER TABLE token ADD COLUMN uses_left INTEGER NOT NULL DEFAULT 1;
ALTER TABLE token ADD COLUMN requires_approval INTEGER NOT NULL DEFAULT 0;

-- One machine for each name. It proves the token anew each time it asks, also when that is spent or expired.
CREATE TABLE admission (
    name        TEXT PRIMARY KEY,
    key         BLOB NOT NULL,       -- SHA-256 of its public key
    token       TEXT NOT NULL,
    secret_hash BLOB NOT NULL,       -- the token's
    for_name    INTEGER NOT NULL,    -- whether the token is for this name, and may take a node's place
    labels      TEXT NOT NULL,       -- JSON
    address     TEXT NOT NULL,
    state       INTEGER NOT NULL,    -- 0 waits, 1 approved, 2 denied
    create_time INTEGER NOT NULL,
    expire_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX admission_by_expiry ON admission (expire_time);
