-- Events of all tasks have one order too, for whoever follows them all: the order of commits.
-- AUTOINCREMENT: a position is never given twice, also not when the newest events are deleted. It
-- costs one write a statement, and a statement adds a whole batch.
CREATE TABLE positioned_events (
    position  INTEGER PRIMARY KEY AUTOINCREMENT,
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

INSERT INTO positioned_events (task_id, seq, type, schema, at_us, data, prev_hash, hash)
SELECT task_id, seq, type, schema, at_us, data, prev_hash, hash FROM events ORDER BY rowid;

DROP TABLE events;

ALTER TABLE positioned_events RENAME TO events;

-- Written and emptied again by whoever wants to know whether anything can be written.
CREATE TABLE probes (
    probe INTEGER NOT NULL
) STRICT;
