-- The log, what it names, and the projection. Every STRICT: a wrong type is a bug.

-- One line a task: what `ps` prints, who drives it, where its log ends.
-- `owner` is the name of a file in `owners/`; the lease is dead exactly when that file's lock is free.
CREATE TABLE tasks (
    task_id         TEXT PRIMARY KEY NOT NULL,
    status          TEXT NOT NULL,
    phase           TEXT NOT NULL,
    reason          TEXT NOT NULL,
    goal            TEXT NOT NULL,
    seq             INTEGER NOT NULL,
    head_hash       TEXT NOT NULL,
    created_at_us   INTEGER NOT NULL,
    updated_at_us   INTEGER NOT NULL,
    labels          TEXT NOT NULL,
    priority        INTEGER NOT NULL,
    repo            TEXT NOT NULL,
    idempotency_key TEXT,
    epoch           INTEGER NOT NULL DEFAULT 0,
    owner           TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE UNIQUE INDEX tasks_by_idempotency_key ON tasks (idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE INDEX tasks_claimable ON tasks (priority DESC, task_id, owner)
    WHERE status IN ('pending', 'running');

-- Not WITHOUT ROWID: rows of half a kilobyte in the key's tree make appends three times slower.
CREATE TABLE events (
    task_id   TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    type      TEXT NOT NULL,
    schema    INTEGER NOT NULL,
    at_us     INTEGER NOT NULL,
    data      BLOB NOT NULL,
    prev_hash TEXT NOT NULL,
    hash      TEXT NOT NULL,
    UNIQUE (task_id, seq)
) STRICT;

-- Content by its SHA-256, in parts that are small beside what SQLite takes as one value.
CREATE TABLE blobs (
    blob_id TEXT NOT NULL,
    part    INTEGER NOT NULL,
    data    BLOB NOT NULL,
    UNIQUE (blob_id, part)
) STRICT;

-- Who names a blob: it goes with the last task that does.
CREATE TABLE task_blobs (
    task_id TEXT NOT NULL,
    blob_id TEXT NOT NULL,
    PRIMARY KEY (task_id, blob_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX task_blobs_by_blob ON task_blobs (blob_id);

CREATE TABLE snapshots (
    task_id TEXT PRIMARY KEY NOT NULL,
    seq     INTEGER NOT NULL,
    version INTEGER NOT NULL,
    data    BLOB NOT NULL
) STRICT;
