-- Who may ask over the network, and the record of who decided what.

CREATE TABLE access_keys (
    key_id        TEXT PRIMARY KEY NOT NULL,
    name          TEXT NOT NULL,
    revoked_at_us INTEGER NOT NULL,
    used_at_us    INTEGER NOT NULL,
    data          BLOB NOT NULL
) STRICT;

-- A name can be used again when its key is revoked.
CREATE UNIQUE INDEX access_keys_by_name ON access_keys (name) WHERE revoked_at_us = 0;

-- Only added to. `data` is JSON, and each hash covers it and the hash before.
CREATE TABLE audit (
    seq       INTEGER PRIMARY KEY NOT NULL,
    "by"      TEXT NOT NULL,
    action    TEXT NOT NULL,
    data      BLOB NOT NULL,
    prev_hash TEXT NOT NULL,
    hash      TEXT NOT NULL
) STRICT;

-- One line: how often keys were changed, and where the record ends.
CREATE TABLE access_state (
    only       INTEGER PRIMARY KEY CHECK (only = 1),
    revision   INTEGER NOT NULL,
    audit_seq  INTEGER NOT NULL,
    audit_hash TEXT NOT NULL
) STRICT;

INSERT INTO access_state VALUES (1, 0, 0, '0000000000000000000000000000000000000000000000000000000000000000');
