-- Who submitted a task, until when nobody needs to look at it, and what it has cost; and indexes for
-- lists, for what may be driven and for what may be forgotten: all stay cheap with 100,000 tasks.

ALTER TABLE tasks ADD COLUMN submitted_by TEXT NOT NULL DEFAULT '';
-- Above 0: waits by itself for that time. Nobody drives it before.
ALTER TABLE tasks ADD COLUMN wake_at_us INTEGER NOT NULL DEFAULT 0;
-- Of all runs, with what is reserved for the turn that goes on.
ALTER TABLE tasks ADD COLUMN tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN microusd INTEGER NOT NULL DEFAULT 0;

UPDATE tasks SET submitted_by = coalesce(
    (SELECT CASE WHEN json_valid(CAST(data AS TEXT))
        THEN CAST(data AS TEXT) ->> 'submitted_by' END
     FROM events WHERE events.task_id = tasks.task_id AND seq = 1), '');

DROP INDEX tasks_claimable;

-- The heads of its queues, one for each priority and submitter, are found by jumping.
CREATE INDEX tasks_ready ON tasks (priority, submitted_by, task_id, status)
    WHERE status IN ('pending', 'running') AND owner = '';
CREATE INDEX tasks_due ON tasks (wake_at_us)
    WHERE status = 'waiting' AND owner = '' AND wake_at_us > 0;
CREATE INDEX tasks_owned ON tasks (owner) WHERE owner <> '';
-- The others are in `tasks_ready` or `tasks_owned`: here they would cost each submission and append.
CREATE INDEX tasks_by_status ON tasks (status, task_id)
    WHERE status NOT IN ('pending', 'running');
CREATE INDEX tasks_by_submitter ON tasks (submitted_by, task_id);
CREATE INDEX tasks_ended ON tasks (updated_at_us, task_id)
    WHERE status IN ('succeeded', 'unverified', 'failed', 'cancelled');

CREATE TABLE task_labels (
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    task_id TEXT NOT NULL,
    PRIMARY KEY (key, value, task_id)
) STRICT, WITHOUT ROWID;

INSERT INTO task_labels
    SELECT l.key, l.value, task_id FROM tasks, json_each(labels) AS l;

-- No trigger for new rows: with one, SQLite puts a whole INSERT … SELECT aside first.
CREATE TRIGGER tasks_unlabelled AFTER DELETE ON tasks WHEN old.labels <> '{}' BEGIN
    DELETE FROM task_labels WHERE task_id = old.task_id
        AND (key, value) IN (SELECT key, value FROM json_each(old.labels));
END;

-- What each submitter has spent on each day (days since 1970, UTC). `tasks` counts only those that
-- were forgotten since; the others are counted where they are.
CREATE TABLE spending (
    submitted_by TEXT NOT NULL,
    day          INTEGER NOT NULL,
    tasks        INTEGER NOT NULL,
    tokens       INTEGER NOT NULL,
    microusd     INTEGER NOT NULL,
    PRIMARY KEY (submitted_by, day)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER tasks_spent AFTER UPDATE OF tokens, microusd ON tasks
WHEN new.tokens <> old.tokens OR new.microusd <> old.microusd BEGIN
    INSERT INTO spending VALUES (
        new.submitted_by, new.updated_at_us / 86400000000, 0,
        new.tokens - old.tokens, new.microusd - old.microusd)
    ON CONFLICT DO UPDATE SET
        tokens = tokens + excluded.tokens, microusd = microusd + excluded.microusd;
END;
