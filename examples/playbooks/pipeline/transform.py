"""Amounts in whole cents, dates checked. Without --quarantine, a bad row is an error."""

import argparse
import csv
import sys
from datetime import date
from decimal import Decimal, InvalidOperation

parser = argparse.ArgumentParser()
parser.add_argument("source")
parser.add_argument("target")
parser.add_argument("--quarantine")
options = parser.parse_args()

good, bad = [], []
with open(options.source, encoding="utf-8", newline="") as file:
    for row in csv.DictReader(file):
        try:
            day = date.fromisoformat(row["day"])
            cents = int(Decimal(row["amount"]) * 100)
            good.append({"id": int(row["id"]), "day": day.isoformat(), "cents": cents})
        except (ValueError, InvalidOperation):
            bad.append(row)


def write(path, rows, columns):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


if bad and not options.quarantine:
    sys.exit(f"{len(bad)} bad rows, the first has id {bad[0]['id']}; --quarantine puts them aside")
if bad:
    write(options.quarantine, bad, ["id", "day", "amount"])
write(options.target, good, ["id", "day", "cents"])
print(f"{len(good)} rows, {len(bad)} put aside")
