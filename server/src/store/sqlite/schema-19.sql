-- Versions of templates. The spec is kept as it came; only the wire can tell what was left out of it.
CREATE TABLE template (
    name         TEXT NOT NULL,
    version      TEXT NOT NULL,
    architecture TEXT NOT NULL,      -- empty for all
    description  TEXT NOT NULL,
    tags         TEXT NOT NULL,      -- JSON
    creator      TEXT NOT NULL,
    create_time  INTEGER NOT NULL,
    -- Last, so that lists need not read over it.
    spec         BLOB NOT NULL,
    PRIMARY KEY (name, version, architecture)
) STRICT;

CREATE TABLE template_alias (
    name    TEXT NOT NULL,
    alias   TEXT NOT NULL,
    version TEXT NOT NULL,
    PRIMARY KEY (name, alias)
) STRICT, WITHOUT ROWID;

-- What a job was made of, in JSON, with what it said otherwise beside it. Nothing refers to the template: it may go.
ALTER TABLE job_spec ADD COLUMN template TEXT;
ALTER TABLE job_spec ADD COLUMN overrides BLOB;
