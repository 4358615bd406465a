"""Durations as people write them."""

import re

UNITS = {"h": 3600, "m": 60, "s": 1}


def seconds_of(text: str) -> int:
    """`1h30m` is 5400."""
    seconds = 0
    for number, unit in re.findall(r"(\d+)([hms])", text):
        seconds = int(number) * UNITS[unit]
    return seconds
