-- Who did what. Entries go from the oldest on, so that the last hash that went is kept: the oldest entry follows it.
CREATE TABLE deed (
    number INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    caller TEXT NOT NULL,
    key_fingerprint TEXT NOT NULL,
    address TEXT NOT NULL,
    method TEXT NOT NULL,
    target TEXT NOT NULL,
    validate_only INTEGER NOT NULL,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    request_id TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE TABLE deed_base (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;
INSERT INTO deed_base (id, number, hash) VALUES (1, 0, zeroblob(32));
