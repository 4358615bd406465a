"""Knowledge: what can be looked up, cited by file and line; hostile files are data and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_runtime.contributions import of_module
from agent_runtime.errors import ToolRefused
from agent_runtime.loop.hands import with_shared
from agent_runtime.loop.project_notes import opening_block
from agent_runtime.modules import tries
from agent_runtime.modules.knowledge import KnowledgeModule, index, shelves, tools
from agent_runtime.modules.knowledge.markdown import parse
from agent_runtime.modules.knowledge.queries import expression
from agent_runtime.modules.knowledge.tools import the_index
from agent_runtime.modules.tries import twice
from agent_runtime.toolkit import OUTPUT_CHARS_MAX
from agent_runtime.types import SHARED_VARIABLE, Effect, EffectPolicy, Json, ToolCall, ToolResult
from tests.sandboxes.support import make_spec

Use = Callable[..., ToolResult]

AGENTS = """# House rules

Be brief.

## Testing

Run `make test`; the database is mocked by zebrafixture.

## Style

Two spaces.
"""


@pytest.fixture(autouse=True)
def fresh_index() -> Iterator[None]:
    """As in a new worker."""
    the_index.cache_clear()
    yield
    the_index.cache_clear()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    return path


@pytest.fixture
def use(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Calls a tool as a worker does; folders of the user lie in `shared/knowledge`."""
    monkeypatch.setenv(SHARED_VARIABLE, str(tmp_path / "shared"))
    made = {tool.name: tool for tool in tools()}

    def run(name: str, **arguments: Json) -> ToolResult:
        call = ToolCall(call_id="c", tool=name, arguments=arguments, workspace=str(repo))
        try:
            return anyio.run(made[name].execute, call)
        except ToolRefused as error:
            return ToolResult(ok=False, kind="refused", output=str(error))

    return run


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refs(result: ToolResult) -> list[str]:
    return [hit["ref"] for hit in result.data["hits"]]


# ---- what there is -----------------------------------------------------------------------


def test_the_module_contributes_two_reading_tools_with_small_schemas() -> None:
    """Schemas are in every request to a model."""
    contribution = of_module(KnowledgeModule())
    assert [tool.name for tool in contribution.tools] == ["search_knowledge", "read_knowledge"]
    for tool in contribution.tools:
        assert tool.effect({}, EffectPolicy(network="full")) is Effect.READ
        assert (tool.toolbelt, tool.where) == ("knowledge", "worker")
        assert len(str(tool.parameters)) + len(tool.description) < 600


def test_importing_the_modules_loads_nothing_heavy() -> None:
    """A worker's cold start has 100 ms for everything."""
    heavy = ("agent_runtime.ports", "apsw", "yaml", "anyio", "asyncio", "ssl", "urllib.request")
    code = (
        "import sys; from agent_runtime.modules import datasource, knowledge\n"
        "assert len(knowledge.tools()) == len(datasource.tools()) == 2\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_practices_that_come_with_the_runtime_are_listed_with_what_they_are_about(
    use: Use,
) -> None:
    listed = use("search_knowledge").output
    lines = [line for line in listed.splitlines() if line.startswith("- practices:")]
    assert len(lines) >= 9
    assert all(": " in line.removeprefix("- practices:") for line in lines)
    assert "reproducing-a-bug.md Reproducing a bug: Before you change anything" in listed


def test_every_shipped_practice_is_short_and_reads_whole(use: Use) -> None:
    directory = Path(shelves._PRACTICES_DIRECTORY)
    names = sorted(path.name for path in directory.glob("*.md"))
    for name in names:
        result = use("read_knowledge", ref=f"practices:{name}")
        assert result.ok and result.data["cut"] is False, name
        text = (directory / name).read_text(encoding="utf-8")
        assert text in result.output + "\n" and text.count("\n") < 60


@pytest.mark.parametrize(
    ("query", "practice"),
    [
        ("a test fails sometimes", "reproducing-a-bug.md"),
        ("how do I write regression tests", "writing-a-regression-test.md"),
        ("commit message", "git-hygiene.md"),
        ("wheel is missing data files", "python-packaging-pitfalls.md"),
        ("read traceback", "working-with-errors-and-logs.md"),
        ("big unfamiliar code base", "reading-a-large-code-base.md"),
        ("upgrading a dependency", "dependencies-and-upgrades.md"),
        ("debugging failing tests", "debugging-a-failing-test.md"),
        ("smallest change, callers", "editing-safely.md"),
    ],
)
def test_practices_are_found_by_the_words_that_somebody_would_use(
    use: Use, query: str, practice: str
) -> None:
    assert f"practices:{practice}" in refs(use("search_knowledge", query=query))[:3]


# ---- the repository ----------------------------------------------------------------------


def test_a_section_of_agents_md_is_found_and_cited_by_its_lines(use: Use, repo: Path) -> None:
    write(repo / "AGENTS.md", AGENTS)
    result = use("search_knowledge", query="zebrafixture")
    assert result.data["hits"] == [
        {"ref": "repo:AGENTS.md", "first": 5, "last": 7, "heading": "House rules > Testing"}
    ]
    assert "1. repo:AGENTS.md:5-7 House rules > Testing" in result.output
    read = use("read_knowledge", ref="repo:AGENTS.md:5-7")
    assert read.output.splitlines()[0].startswith("[repo:AGENTS.md:5-7 of 11 lines, sha256 ")
    assert read.output.splitlines()[1:] == AGENTS.splitlines()[4:7]


def test_words_are_found_by_their_stem_and_their_beginning(use: Use, repo: Path) -> None:
    write(repo / "AGENTS.md", AGENTS)
    for query in ("mocks", "mocking", "zebraf", "ZEBRAFIXTURE"):
        found = [hit for hit in use("search_knowledge", query=query).data["hits"]
                 if hit["ref"] == "repo:AGENTS.md"]  # fmt: skip
        assert [hit["first"] for hit in found] == [5], query


def test_a_heading_counts_more_than_a_mention(use: Use, repo: Path) -> None:
    write(repo / "AGENTS.md", "# A\n\nquokka once.\n\n# Quokka\n\nThe animal.\n")
    hits = use("search_knowledge", query="quokka").data["hits"]
    assert [hit["first"] for hit in hits] == [5, 1]


def test_a_changed_a_new_and_a_deleted_file_are_noticed_at_the_next_question(
    use: Use, repo: Path
) -> None:
    note = write(repo / "AGENTS.md", "# A\n\nThe word is alpha1.\n")
    stamp = note.stat()
    assert refs(use("search_knowledge", query="alpha1")) == ["repo:AGENTS.md"]
    # As long as before, and with its old time put back.
    note.write_text("# A\n\nThe word is omega1.\n", encoding="utf-8")
    os.utime(note, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert refs(use("search_knowledge", query="alpha1")) == []
    assert refs(use("search_knowledge", query="omega1")) == ["repo:AGENTS.md"]
    write(repo / "sub" / "AGENTS.md", "omega1 too")
    assert len(refs(use("search_knowledge", query="omega1"))) == 2
    note.unlink()
    assert refs(use("search_knowledge", query="omega1")) == ["repo:sub/AGENTS.md"]


def test_the_notes_that_hold_for_a_file_come_nearest_first(use: Use, repo: Path) -> None:
    for directory in ("", "api/", "api/v2/", "web/"):
        write(repo / f"{directory}AGENTS.md", f"# Notes of {directory or 'all'}\n\nplatypus\n")
    for path in ("api/v2/new.py", f"{repo}/api/v2/new.py", "./api/../api/v2/new.py"):
        result = use("search_knowledge", path=path)
        assert [each["ref"] for each in result.data["documents"]] == [
            "repo:api/v2/AGENTS.md", "repo:api/AGENTS.md", "repo:AGENTS.md",
        ]  # fmt: skip
    found = use("search_knowledge", path="web/a.ts", query="platypus")
    assert sorted(refs(found)) == ["repo:AGENTS.md", "repo:web/AGENTS.md"]


def test_a_path_outside_of_the_repository_is_refused(use: Use) -> None:
    for path in ("../x", "/etc/passwd", "a/../../b"):
        result = use("search_knowledge", path=path)
        assert (result.ok, result.kind) == (False, "refused") and "outside" in result.output


def test_a_skill_is_disclosed_step_by_step(use: Use, repo: Path) -> None:
    """agentskills.io: name and description first, then the body, then what lies beside it."""
    skill = repo / ".claude" / "skills" / "pdf"
    head = "---\nname: pdf-forms\ndescription: Fill in PDF forms: all kinds.\n---\n"
    write(skill / "SKILL.md", f"{head}# Steps\n\nRead reference/fields.md first.\n")
    write(skill / "reference" / "fields.md", "# Fields\n\nName, wombatdate.\n")
    write(skill / "fill.py", "print('never run by looking')\n")
    listed = use("search_knowledge").output
    assert "repo:.claude/skills/pdf/SKILL.md pdf-forms: Fill in PDF forms: all kinds." in listed
    assert "Steps" not in listed and "fill.py" not in listed
    body = use("read_knowledge", ref="repo:.claude/skills/pdf/SKILL.md").output
    assert "Read reference/fields.md first." in body and "wombatdate" not in body
    assert "- repo:.claude/skills/pdf/fill.py (30 bytes)" in body
    assert "- repo:.claude/skills/pdf/reference/fields.md (28 bytes)" in body
    last = use("read_knowledge", ref="repo:.claude/skills/pdf/reference/fields.md").output
    assert "wombatdate" in last


def test_only_notes_and_skills_of_a_repository_are_documents(use: Use, repo: Path) -> None:
    write(repo / "README.md", "dugong")
    write(repo / "node_modules" / "x" / "AGENTS.md", "dugong")
    write(repo / ".git" / "AGENTS.md", "dugong")
    write(repo / "env" / "pyvenv.cfg", "")
    write(repo / "env" / "AGENTS.md", "dugong")
    assert refs(use("search_knowledge", query="dugong")) == []


def test_a_link_to_the_same_note_is_one_document(use: Use, repo: Path) -> None:
    write(repo / "AGENTS.md", "numbat")
    (repo / "CLAUDE.md").symlink_to("AGENTS.md")
    assert refs(use("search_knowledge", query="numbat")) == ["repo:AGENTS.md"]


# ---- the user's folders ------------------------------------------------------------------


def test_every_markdown_file_of_the_users_folders_is_a_document(use: Use, tmp_path: Path) -> None:
    shared = tmp_path / "shared" / "knowledge"
    write(shared / "team" / "deploy" / "runbook.md", "# Deploying\n\nAsk the capybara.\n")
    write(shared / "team" / "script.sh", "capybara")
    write(shared / "repo" / "AGENTS.md", "capybara: a folder cannot pretend to be the repository")
    assert refs(use("search_knowledge", query="capybara")) == ["team:deploy/runbook.md"]
    assert "# Deploying" in use("read_knowledge", ref="team:deploy/runbook.md").output


def test_a_repository_cannot_pose_as_the_users_folders(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`environment.env` of a repository's own file is in a call's variables."""
    monkeypatch.delenv(SHARED_VARIABLE, raising=False)
    write(repo / "fake" / "knowledge" / "team" / "a.md", "tamarin")
    call = ToolCall(
        call_id="c", tool="search_knowledge", arguments={"query": "tamarin"},
        workspace=str(repo), env={SHARED_VARIABLE: str(repo / "fake")},
    )  # fmt: skip
    assert refs(anyio.run(tools()[0].execute, call)) == []
    spec = make_spec(tmp_path, env={SHARED_VARIABLE: str(repo / "fake"), "A": "b"})
    assert with_shared(spec, "").env == {"A": "b"}
    assert with_shared(spec, "/shared").env == {"A": "b", SHARED_VARIABLE: "/shared"}


def test_a_folder_that_is_gone_is_told_from_memory(
    use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 213: two tries 100 ms apart, then what was read before, with a note."""
    pauses: list[float] = []
    monkeypatch.setattr(index, "twice", lambda ask, errors: twice(ask, errors=errors,
                                                                   wait=pauses.append))  # fmt: skip
    team = tmp_path / "shared" / "knowledge" / "team"
    write(team / "a.md", "# A\n\naxolotl\n")
    assert refs(use("search_knowledge", query="axolotl")) == ["team:a.md"]
    assert pauses == []
    place = the_index()
    team.rename(tmp_path / "away")
    shelf = shelves.Shelf("team", str(team))
    notes = place.refresh([shelf])
    assert pauses == [tries.PAUSE_SECONDS] == [0.1]
    assert "team: cannot be read" in notes[0] and "its 1 documents are as read before" in notes[0]
    assert [hit.reference for hit in place.search("axolotl", 5)] == ["team:a.md"]
    (tmp_path / "away").rename(team)
    assert place.refresh([shelf]) == []


def test_a_workspace_that_cannot_be_listed_gives_an_empty_answer_with_a_note(
    use: Use, repo: Path
) -> None:
    repo.rmdir()
    result = use("search_knowledge", query="narwhal")
    assert result.ok and refs(result) == []
    assert "repo: cannot be read" in result.output and "tried twice; left out" in result.output


def test_an_index_that_fails_once_is_made_anew(use: Use, repo: Path) -> None:
    write(repo / "AGENTS.md", "# A\n\nkakapo\n")
    assert refs(use("search_knowledge", query="kakapo")) == ["repo:AGENTS.md"]
    broken = the_index()._db
    assert broken is not None
    broken.execute("DROP TABLE sections")
    assert refs(use("search_knowledge", query="kakapo")) == ["repo:AGENTS.md"]


def test_an_index_that_always_fails_is_an_empty_answer_and_no_failure(
    use: Use, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What helps and decides nothing must not stop a task."""
    write(repo / "AGENTS.md", "kakapo")
    monkeypatch.setattr(index, "_SCHEMA", "CREATE TABLE no_such_thing(")
    result = use("search_knowledge", query="kakapo")
    assert result.ok and result.data["hits"] == []
    assert "nothing could be looked up" in result.output and "tried twice" in result.output


def test_asking_twice_returns_the_first_answer_or_the_last_error() -> None:
    pauses: list[float] = []
    answers: list[str | OSError] = [OSError("one"), "two"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert twice(ask, errors=OSError, wait=pauses.append) == "two"
    assert pauses == [0.1]
    answers[:] = [OSError("one"), OSError("two"), "three"]
    assert str(twice(ask, errors=OSError, wait=pauses.append)) == "two"
    answers[:] = ["at once"]
    assert twice(ask, errors=OSError, wait=pauses.append) == "at once"
    assert pauses == [0.1, 0.1]


# ---- hostile input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    ['"', '"a" OR', "a AND", "NOT", "NEAR(a b, 1", "body:x", "^a", "a*", "*", "-", "a'; DROP TABLE",
     "{body}: x", "(((((", "\0", "a\0b", "🦘", "a" * 2000, "AND OR NOT", "x:y:z",
     "sections", "rank:1", "+ +", '""""', "\\"],
)  # fmt: skip
def test_no_query_is_malformed(use: Use, query: str) -> None:
    result = use("search_knowledge", query=query)
    assert result.ok and "nothing could be looked up" not in result.output


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200))
def test_no_text_at_all_is_a_malformed_expression(query: str) -> None:
    wanted = expression(query)
    if wanted is not None:
        db = apsw.Connection(":memory:")
        db.execute(index._SCHEMA)
        assert list(db.execute("SELECT 1 FROM sections WHERE sections MATCH ?", (wanted,))) == []


@pytest.mark.parametrize(
    ("ref", "kind", "said"),
    [
        ("AGENTS.md", "bad_input", "must begin with one of repo:, practices:"),
        ("elsewhere:x.md", "bad_input", "must begin with one of"),
        ("repo:", "bad_input", "name a document"),
        ("repo:../secret.md", "refused", "leads out of"),
        ("repo:/etc/passwd", "refused", "leads out of"),
        ("practices:../../../../../../etc/passwd", "refused", "leads out of"),
        ("repo:link-out.md", "refused", "leads out of"),
        ("repo:directory-out/secret.md", "refused", "leads out of"),
        ("repo:loop.md", "failed", "lead in a circle"),
        ("repo:pipe.md", "failed", "a named pipe"),
        ("repo:sub", "failed", "a directory"),
        ("repo:sparse.md", "failed", "it has 1,073,741,824 bytes, and at most 262,144 are read"),
        ("repo:binary.md", "failed", "it is no text"),
        ("repo:AGENTS.md:9-3", "bad_input", "has lines 1-11; '9-3' is no range"),
        ("repo:AGENTS.md:0-3", "bad_input", "is no range"),
        ("repo:AGENTS.md:999999-1000000", "bad_input", "has lines 1-11"),
        ("repo:AGENT.md", "not_found", "did you mean 'repo:AGENTS.md'?"),
        ("repo:a\0b", "refused", "a zero byte"),
        ("repo:" + "x" * 4000, "not_found", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_the_rule_and_the_value(
    use: Use, repo: Path, tmp_path: Path, ref: str, kind: str, said: str
) -> None:
    write(repo / "AGENTS.md", AGENTS)
    write(tmp_path / "secret.md", "secret")
    hostile(repo, tmp_path, "{}.md")
    (repo / "sub").mkdir()
    result = use("read_knowledge", ref=ref)
    assert (result.ok, result.kind) == (False, kind), result.output
    assert said in result.output and "secret\n" not in result.output


def hostile(repo: Path, outside: Path, name: str) -> None:
    """Files that a repository might bring; `{}` in `name` is what each is."""

    def at(what: str) -> Path:
        path = repo / name.format(what)
        path.parent.mkdir(exist_ok=True)
        return path

    at("link-out").symlink_to(outside / "secret.md")
    (repo / "directory-out").symlink_to(outside)
    at("loop").symlink_to(at("loop").name)
    os.mkfifo(at("pipe"))
    with open(at("sparse"), "wb") as file:
        file.truncate(1 << 30)
    at("binary").write_bytes(b"MZ\0\0" * 100)


def test_notes_that_are_no_notes_are_left_out_and_named(
    use: Use, repo: Path, tmp_path: Path
) -> None:
    write(tmp_path / "secret.md", "secretword")
    hostile(repo, tmp_path, "{}/AGENTS.md")
    write(repo / "AGENTS.md", "# Here\n\nsecretword of ours\n")
    result = use("search_knowledge", query="secretword")
    assert refs(result) == ["repo:AGENTS.md"]
    left_out = " ".join(result.data["left_out"])
    for what in ("link-out", "loop", "pipe", "sparse", "binary"):
        assert f"repo:{what}/AGENTS.md: " in left_out, what
    assert "[left out: " in result.output


def test_a_note_that_is_no_utf_8_is_read_as_far_as_it_is(use: Use, repo: Path) -> None:
    write(repo / "AGENTS.md", "# Größe\n\nwallaby\n".encode("latin-1"))
    write(repo / "a" / "AGENTS.md", "# Größe\n\nwallaby\n".encode("utf-16"))
    found = use("search_knowledge", query="wallaby")
    assert sorted(refs(found)) == ["repo:AGENTS.md", "repo:a/AGENTS.md"]
    assert "Gr\ufffd" in use("read_knowledge", ref="repo:AGENTS.md").output
    assert "# Größe" in use("read_knowledge", ref="repo:a/AGENTS.md").output


def test_a_long_document_is_cut_at_a_line_and_says_where_to_read_on(use: Use, repo: Path) -> None:
    lines = [f"## Part {number}\n\n{'word ' * 30}\n" for number in range(200)]
    write(repo / "AGENTS.md", "# Long\n\n" + "\n".join(lines))
    ref = "repo:AGENTS.md"
    seen: list[str] = []
    for _ in range(50):
        result = use("read_knowledge", ref=ref)
        assert len(result.output) <= OUTPUT_CHARS_MAX
        body = result.output.split("\n")[1:]
        count = result.data["last"] - result.data["first"] + 1
        seen += body[:count]
        if not result.data["cut"]:
            break
        ref = f"repo:AGENTS.md:{result.data['last'] + 1}-{result.data['lines']}"
        assert f"[cut; read on with ref {ref}]" in result.output
    assert "\n".join(seen) + "\n" == (repo / "AGENTS.md").read_text(encoding="utf-8")
    assert "[sections:]" in use("read_knowledge", ref="repo:AGENTS.md").output


def test_a_line_without_end_is_cut_in_the_line(use: Use, repo: Path) -> None:
    write(repo / "AGENTS.md", "x" * 200_000)
    result = use("read_knowledge", ref="repo:AGENTS.md")
    assert result.ok and "200,000 characters in this line" in result.output
    assert len(result.output) <= OUTPUT_CHARS_MAX


def test_a_repository_of_many_notes_is_bounded(
    use: Use, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelves, "DOCUMENTS_MAX", 30)
    for number in range(40):
        write(repo / f"d{number:02}" / "AGENTS.md", f"bandicoot {number}")
    result = use("search_knowledge")
    assert len([x for x in result.data["documents"] if x["ref"].startswith("repo:")]) == 30
    assert "and 2 more" in result.output and "which is all" in result.output


def test_looking_changes_nothing_in_the_repository(use: Use, repo: Path) -> None:
    """Its effect is read: no tree is kept of it."""
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    write(repo / "AGENTS.md", AGENTS)
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in repo.rglob("*"))
    use("search_knowledge", query="test")
    use("read_knowledge", ref="repo:AGENTS.md")
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in repo.rglob("*")) == before


# ---- Markdown ----------------------------------------------------------------------------


def test_headings_in_code_are_no_headings() -> None:
    text = "# A\n\n```sh\n# not one\n```\n\n~~~~\n```\n# nor this\n~~~~\n\n## B ##\ntext\n"
    sections = parse(text, name="x.md").sections
    assert [(each.start, each.end, each.heading) for each in sections] == [
        (1, 10, "A"), (12, 13, "A > B"),
    ]  # fmt: skip


def test_a_heading_ends_before_its_closing_signs() -> None:
    text = "# C# and F# ##\n\n#no heading\n\n## \nx\n"
    headings = [each.heading for each in parse(text, name="x.md").sections]
    assert headings == ["C# and F#", "C# and F# > "]


def test_no_line_takes_longer_than_it_is() -> None:
    """Blanks and signs in a row are cheap to write and were slow to read: hours, at this length."""
    for piece in (" ", "\t", "# ", "#", "` ", "</"):
        line = "# a" + piece * 100_000 + "x"
        document = parse("\n".join([line] * 20), name="x.md")
        assert len(document.lines) == 20
        front = f"---\nname: a{piece * 100_000}b\n---\n"
        assert parse(front, name="x.md").title.startswith("a")
        assert opening_block([("AGENTS.md", line), ("s/SKILL.md", front)])


def test_a_fence_that_never_ends_holds_the_rest() -> None:
    assert len(parse("# A\n```\n# b\n# c\n", name="x").sections) == 1


@given(st.text(alphabet="#-`~ab\n\r\t ", max_size=400))
def test_every_line_that_says_something_is_in_exactly_one_section(text: str) -> None:
    document = parse(text, name="x.md")
    covered = [n for each in document.sections for n in range(each.start, each.end + 1)]
    assert covered == sorted(set(covered))
    spoken = [n for n, line in enumerate(document.lines, 1) if line.strip()]
    front = document.lines[0].rstrip() == "---" if document.lines else False
    if not front:
        assert set(spoken) <= set(covered)
    for each in document.sections:
        assert each.text == "\n".join(document.lines[each.start - 1 : each.end])
