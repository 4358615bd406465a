"""Every row of the source is in the warehouse or in quarantine, and the sums agree."""

import csv
import sqlite3
from decimal import Decimal
from pathlib import Path


def rows(path):
    if not Path(path).exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


source, aside = rows("source/orders.csv"), {row["id"] for row in rows("quarantine.csv")}
expected = {row["id"]: row for row in source if row["id"] not in aside}
loaded = sqlite3.connect("file:warehouse.db?mode=ro", uri=True).execute("select * from orders")
found = {str(order): cents for order, _, cents in loaded}
assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
for order, cents in found.items():
    assert cents == Decimal(expected[order]["amount"]) * 100, order
assert len(aside) < len(source) / 10, "too many rows were put aside"
