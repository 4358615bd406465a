"""Print the article that shares the most words with a subject; exit 1 if none shares any."""

import re
import sys
from pathlib import Path


def common(path):
    keywords = path.read_text(encoding="utf-8").partition("\n")[0]
    return len(words & set(re.findall(r"\w+", keywords.lower())))


words = set(re.findall(r"\w+", sys.argv[1].lower())) - {"keywords"}
best = max(sorted(Path("knowledge").iterdir()), key=common)
if not common(best):
    sys.exit(f"no article fits {sys.argv[1]!r}")
print(best.read_text(encoding="utf-8").partition("\n")[2].strip())
