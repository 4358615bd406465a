"""What is in stock, in PostgreSQL."""

import psycopg

TABLE = "create table if not exists stock (name text primary key, count int not null)"


def connect() -> psycopg.Connection:
    return psycopg.connect("host=127.0.0.1 user=app dbname=postgres")


def add(conn: psycopg.Connection, name: str, count: int) -> None:
    """So many more are there."""
    conn.execute(TABLE)
    conn.execute(
        "insert into stock values (%s, %s)",
        (name, count),
    )


def count(conn: psycopg.Connection, name: str) -> int:
    """How many are there."""
    conn.execute(TABLE)
    row = conn.execute("select count from stock where name = %s", (name,)).fetchone()
    return row[0] if row else 0
