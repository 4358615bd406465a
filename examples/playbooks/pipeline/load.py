"""All rows into SQLite, or none. Loading twice changes nothing."""

import csv
import sqlite3
import sys

source, target = sys.argv[1:]
with open(source, encoding="utf-8", newline="") as file:
    rows = [(row["id"], row["day"], row["cents"]) for row in csv.DictReader(file)]
database = sqlite3.connect(target)
with database:
    database.execute("create table if not exists orders (id integer primary key, day, cents int)")
    database.executemany("insert or replace into orders values (?, ?, ?)", rows)
print(f"{len(rows)} rows in {target}")
