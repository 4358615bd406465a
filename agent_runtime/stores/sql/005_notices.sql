-- Who hears of events, who may set off tasks, and what is still to be told.

CREATE TABLE webhooks (
    webhook_id TEXT PRIMARY KEY NOT NULL,
    data       BLOB NOT NULL
) STRICT;

CREATE TABLE hooks (
    hook_id TEXT PRIMARY KEY NOT NULL,
    name    TEXT NOT NULL UNIQUE,
    data    BLOB NOT NULL
) STRICT;

-- Targets of the settings: from which position on each is told.
CREATE TABLE notice_targets (
    target TEXT PRIMARY KEY NOT NULL,
    since  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `body` is what is signed and sent; `tries` is JSON. AUTOINCREMENT: lists are read in pages.
CREATE TABLE deliveries (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    target      TEXT NOT NULL,
    message_id  TEXT NOT NULL,
    type        TEXT NOT NULL,
    body        BLOB NOT NULL,
    made_at_us  INTEGER NOT NULL,
    next_at_us  INTEGER NOT NULL,
    task_id     TEXT NOT NULL,
    seq         INTEGER NOT NULL,
    state       TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    ended_at_us INTEGER NOT NULL,
    tries       BLOB NOT NULL,
    UNIQUE (target, message_id)
) STRICT;

CREATE INDEX deliveries_due ON deliveries (target, next_at_us) WHERE state = 'pending';
CREATE INDEX deliveries_ended ON deliveries (ended_at_us) WHERE state <> 'pending';

-- One line: how often webhooks were changed, and up to which event deliveries were made.
CREATE TABLE notices_state (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    revision INTEGER NOT NULL,
    position INTEGER NOT NULL
) STRICT;

INSERT INTO notices_state VALUES (1, 0, 0);
