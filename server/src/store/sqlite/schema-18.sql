-- Config maps and secrets. What is in them is somebody else's business: a secret's content is sealed.
CREATE TABLE configuration (
    kind           TEXT NOT NULL,    -- config map, secret
    name           TEXT NOT NULL,
    keys           TEXT NOT NULL,    -- JSON
    create_time    INTEGER NOT NULL,
    update_time    INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    -- Last, so that lists need not read over it.
    content        BLOB NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;
