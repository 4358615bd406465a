"""The report has every part, tells the times that the logs tell, and fits the configuration."""

from pathlib import Path

report = Path("incidents/2026-03-14.md").read_text(encoding="utf-8")
log = Path("logs/checkout.log").read_text(encoding="utf-8").splitlines()
errors = [line for line in log if " ERROR " in line]
for part in ("## What happened", "## What the logs say", "## What was done", "cause: "):
    assert part in report, f"{part!r} is missing"
for when in (errors[0].split()[0], errors[-1].split()[0]):
    assert when in report, f"{when} is missing"
raised = "pool_size = 20" in Path("config/checkout.ini").read_text(encoding="utf-8")
assert raised == ("pool of connections" in report), "report and configuration differ"
