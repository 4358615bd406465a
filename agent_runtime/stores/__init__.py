"""Where the log lives: adapters of `ports.Store`.

Reading order: `limits` (what no store takes), `changes` (who waits for a write), `memory` (the
reference, and the store of the simulation), then the one on disk: `sqlite` (the port and all
reading), `sqlite_writer` (the one thread that commits), `sqlite_writes` (what each write does in
the transaction), `sqlite_log` (those that add events, many at once), `sqlite_rows` (statements over
many rows), `sqlite_database` (opening, migrations, errors), `owners` (who is alive).

Nothing is imported here: apsw is for those who open a SQLite store.
"""
