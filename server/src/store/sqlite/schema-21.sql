-- What happened to apps on their nodes. What happens again is counted in one row. Keyed by app first, so that the history of
-- an app on a node lies together.
CREATE TABLE app_event (
    app        TEXT NOT NULL,
    node       TEXT NOT NULL,
    number     INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    instance   INTEGER,
    revision   INTEGER NOT NULL,
    exit_code  INTEGER,
    message    TEXT NOT NULL,
    node_time  INTEGER,
    count      INTEGER NOT NULL,
    first_time INTEGER NOT NULL,
    last_time  INTEGER NOT NULL,
    PRIMARY KEY (app, node, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX app_event_by_node ON app_event (node, app, number);
CREATE INDEX app_event_by_time ON app_event (last_time);
