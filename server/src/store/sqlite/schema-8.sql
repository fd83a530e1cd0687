-- What images of registries are read with. The password is sealed by a key that is not in the database.
CREATE TABLE registry_credential (
    name           TEXT PRIMARY KEY,
    registry       TEXT NOT NULL,
    username       TEXT NOT NULL,
    ca_pem         TEXT NOT NULL,
    sealed         BLOB NOT NULL,
    create_time    INTEGER NOT NULL,
    update_time    INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    -- The request that made it and may come again.
    caller         TEXT,
    request        TEXT,
    body           BLOB,             -- fingerprint
    request_expiry INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX registry_credential_by_request ON registry_credential (caller, request)
    WHERE request IS NOT NULL;
