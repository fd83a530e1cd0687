-- Requests of every kind may come again, not only those about jobs, and are answered as before.
CREATE TABLE request (
    caller      TEXT NOT NULL,
    id          TEXT NOT NULL,
    body        BLOB NOT NULL,       -- fingerprint of the call and all that it says
    job         INTEGER REFERENCES job (key),
    answer      TEXT,                -- JSON, of a request that was not about a job
    expire_time INTEGER NOT NULL,
    PRIMARY KEY (caller, id)
) STRICT, WITHOUT ROWID;

INSERT INTO request (caller, id, body, job, expire_time) SELECT caller, id, body, job, expire_time FROM creation;
DROP TABLE creation;

CREATE INDEX request_by_expiry ON request (expire_time);
CREATE INDEX request_by_caller ON request (caller, expire_time);
CREATE INDEX request_by_job ON request (job) WHERE job IS NOT NULL;

DROP INDEX registry_credential_by_request;
ALTER TABLE registry_credential DROP COLUMN caller;
ALTER TABLE registry_credential DROP COLUMN request;
ALTER TABLE registry_credential DROP COLUMN body;
ALTER TABLE registry_credential DROP COLUMN request_expiry;
