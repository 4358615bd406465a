-- Calls of MCP clients that outlive the connection. `data` is the record, as JSON.

-- `owner`: as that of tasks. `expires_at_us` is 0 while it is open.
CREATE TABLE kept_calls (
    call_id       TEXT PRIMARY KEY NOT NULL,
    server        TEXT NOT NULL,
    caller        TEXT NOT NULL,
    key           TEXT,
    owner         TEXT NOT NULL,
    expires_at_us INTEGER NOT NULL,
    data          BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX kept_calls_by_key ON kept_calls (server, caller, key) WHERE key IS NOT NULL;
CREATE INDEX kept_calls_of ON kept_calls (server, caller, call_id, expires_at_us);
CREATE INDEX kept_calls_open ON kept_calls (server, owner) WHERE expires_at_us = 0;
CREATE INDEX kept_calls_ended ON kept_calls (expires_at_us) WHERE expires_at_us > 0;
