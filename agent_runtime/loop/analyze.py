"""Facts of a repository from the names of its files: languages, test commands, what is protected.

Pure: the shell hands in the list of paths. Nothing of the repository is run, nothing is guessed
that is not said in `facts`.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence

from agent_runtime.loop.deciding import deciding_files, standing_in
from agent_runtime.loop.events import RequirementsAnalyzed
from agent_runtime.protect import DEFAULT_PATTERNS
from agent_runtime.types import Json, TaskSpec

LANGUAGES = {
    ".py": "Python", ".js": "JavaScript", ".mjs": "JavaScript", ".ts": "TypeScript",
    ".tsx": "TypeScript", ".jsx": "JavaScript", ".rs": "Rust", ".go": "Go", ".java": "Java",
    ".kt": "Kotlin", ".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".hpp": "C++",
    ".cs": "C#", ".rb": "Ruby", ".php": "PHP", ".swift": "Swift", ".scala": "Scala",
    ".sh": "Shell", ".lua": "Lua", ".ex": "Elixir", ".hs": "Haskell",
}  # fmt: skip

TEST_COMMANDS = (
    ("pytest.ini", "python -m pytest"),
    ("tox.ini", "python -m pytest"),
    ("conftest.py", "python -m pytest"),
    ("package.json", "npm test"),
    ("Cargo.toml", "cargo test"),
    ("go.mod", "go test ./..."),
    ("Makefile", "make test"),
)
"""A file at the top of the repository, and the command that it suggests."""

FILES_NAMED_MAX = 20


def analyze(
    task: TaskSpec, paths: Sequence[str], *, project_notes: str = ""
) -> RequirementsAnalyzed:
    """The facts, and the protected patterns: defaults, objectives' test files, the task's own.

    `project_notes` is what the repository tells agents, for the brain's first message.
    """
    known = set(paths)
    languages = Counter(
        LANGUAGES[suffix] for p in paths if (suffix := posixpath.splitext(p)[1]) in LANGUAGES
    )
    goal_words = {w.strip("`'\".,:;()") for w in task.goal.split()}
    facts: dict[str, Json] = {
        "files": len(paths),
        "languages": [name for name, _ in languages.most_common(5)],
        "test_commands": list(
            dict.fromkeys(command for name, command in TEST_COMMANDS if name in known)
        ),
        "files_named_in_goal": sorted(goal_words & known)[:FILES_NAMED_MAX],
        "objectives": [o.id for o in task.objectives],
    }
    if project_notes:
        facts["project_notes"] = project_notes
    tested = deciding_files(task.objectives, known)
    facts["test_files"] = tested
    # Order matters: what the task says comes last, so that `!pattern` can release a default.
    in_place = standing_in(task.objectives, known)
    protected = [*in_place, *DEFAULT_PATTERNS, *tested, *task.protect]
    return RequirementsAnalyzed(facts=facts, protected=list(dict.fromkeys(protected)))
