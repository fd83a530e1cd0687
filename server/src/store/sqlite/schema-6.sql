-- Has a row while the database is one that was restored and that nobody has accepted yet: nodes may run what it does not know.
CREATE TABLE hold (
    since INTEGER NOT NULL
) STRICT;
