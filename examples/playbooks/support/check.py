"""A ticket is handled when its customer has an answer from the knowledge, or a person has it."""

import sys
from pathlib import Path

number = sys.argv[1]
ticket = Path(f"tickets/{number}.txt").read_text(encoding="utf-8")
customer = ticket.split("From: ")[1].splitlines()[0]
articles = [
    path.read_text(encoding="utf-8").partition("\n")[2].strip()
    for path in Path("knowledge").iterdir()
]
answer, escalation = Path(f"outbox/{number}.txt"), Path(f"escalations/{number}.txt")
if answer.exists():
    text = answer.read_text(encoding="utf-8")
    assert text.startswith(f"To: {customer}\n"), text
    assert any(article in text for article in articles), text
    assert not escalation.exists()
else:
    assert ticket.strip() in escalation.read_text(encoding="utf-8")
