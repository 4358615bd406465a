"""Datasource: rows and values with provenance; nothing is ever written, and no input is trusted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_runtime.contributions import of_module
from agent_runtime.errors import ToolRefused
from agent_runtime.modules.datasource import DatasourceModule, answers, databases, tables, tools
from agent_runtime.modules.datasource.declarations import kind_of, parse, seconds_of
from agent_runtime.modules.reading import Unreadable
from agent_runtime.taskfile import read_environment
from agent_runtime.toolkit import OUTPUT_CHARS_MAX
from agent_runtime.types import SHARED_VARIABLE, Effect, EffectPolicy, Json, ToolCall, ToolResult

Use = Callable[..., ToolResult]


@pytest.fixture(autouse=True)
def fresh_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(SHARED_VARIABLE, raising=False)
    yield
    answers._tables.clear()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    return path


@pytest.fixture
def use(repo: Path) -> Use:
    """Calls a tool as a worker does."""
    made = {tool.name: tool for tool in tools()}

    def run(name: str, **arguments: Json) -> ToolResult:
        call = ToolCall(call_id="c", tool=name, arguments=arguments, workspace=str(repo))
        try:
            return anyio.run(made[name].execute, call)
        except ToolRefused as error:
            return ToolResult(ok=False, kind="refused", output=str(error))

    return run


@pytest.fixture
def ask(use: Use) -> Use:
    """Queries the source called `it`."""
    return lambda query="", **more: use("query_datasource", source="it", query=query, **more)


def declare(repo: Path, **sources: Json) -> None:
    (repo / ".agent-runtime.yaml").write_text(
        json.dumps({"datasources": sources}), encoding="utf-8"
    )


def put(repo: Path, name: str, content: str | bytes, **more: Json) -> Path:
    """A file of the repository, declared as `it`."""
    path = repo / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    declare(repo, it={"file": name, **more})
    return path


def database(path: Path, *statements: str) -> Path:
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()
    return path


def rows(result: ToolResult) -> list[list[Json]]:
    assert result.ok, result.output
    found: list[list[Json]] = result.data["rows"]
    return found


# ---- what there is -----------------------------------------------------------------------


def test_the_module_contributes_two_reading_tools_with_small_schemas() -> None:
    """Schemas are in every request to a model."""
    contribution = of_module(DatasourceModule())
    assert [tool.name for tool in contribution.tools] == ["list_datasources", "query_datasource"]
    for tool in contribution.tools:
        assert tool.effect({}, EffectPolicy(network="full")) is Effect.READ
        assert (tool.toolbelt, tool.where) == ("datasource", "worker")
        assert len(str(tool.parameters)) + len(tool.description) < 650


def test_without_declarations_the_list_says_where_they_go(use: Use) -> None:
    assert ".agent-runtime.yaml" in use("list_datasources").output
    result = use("query_datasource", source="prices")
    assert (result.ok, result.kind) == (False, "not_found")
    assert "no datasource is called 'prices' (there are: none)" in result.output


def test_declared_sources_are_listed_and_a_misspelled_one_is_answered_with_the_nearest(
    use: Use, repo: Path
) -> None:
    declare(
        repo,
        prices={"file": "p.csv", "description": "What the\nshop shows"},
        Bad={"file": "x"},
        both={"file": "x", "url": "http://x"},
    )
    listed = use("list_datasources").output
    assert "- prices (csv, declared by the repository, p.csv): What the shop shows" in listed
    assert "[.agent-runtime.yaml: datasources.Bad: the name 'Bad' must be lower case" in listed
    result = use("query_datasource", source="price")
    assert "did you mean 'prices'? (there are: prices)" in result.output
    result = use("query_datasource", source="both")
    assert "must name either 'file' or 'url', got both" in result.output


@pytest.mark.parametrize(
    ("each", "problem"),
    [
        ({}, "must name either 'file' or 'url', got neither"),
        ("x", "must be a mapping"),
        ({"file": 3}, "file: must be a text, got int"),
        ({"fiel": "x", "file": "x"}, "'fiel' is not a known key; did you mean 'file'?"),
        ({"file": "/etc/passwd"}, "must be relative to the repository"),
        ({"file": "~/x"}, "must be relative to the repository"),
        ({"file": "a\0b"}, "a zero byte"),
        ({"url": "file:///etc/passwd"}, "must begin with http:// or https://"),
        ({"url": "http://a b/"}, "without blanks"),
        ({"url": "http://ü.example/"}, "must be in ASCII"),
        ({"url": "http://user:pass@x/"}, "use 'bearer'"),
        ({"url": "http://x:99999999/"}, "is no address"),
        ({"url": "http://[/"}, "is no address"),
        ({"file": "x", "kind": "excel"}, "kind: must be one of csv, json"),
        ({"file": "x", "max_age": "soon"}, "max_age: must be like 30s"),
        ({"file": "x", "max_age": 0}, "above 0, got '0'"),
        ({"file": "x", "max_age": True}, "max_age: must be like"),
        ({"file": "x", "delimiter": ";;"}, "delimiter: must be one character"),
        ({"file": "x", "delimiter": '"'}, "delimiter: must be one character"),
        ({"url": "http://x", "bearer": "env:HOME"}, "a repository cannot ask for a credential"),
    ],
)
def test_a_wrong_declaration_is_told_with_the_rule_and_the_value(each: Json, problem: str) -> None:
    found, problems = parse({"it": each, "ok": {"file": "x"}}, origin="repository", place="f")
    assert [source.name for source in found] == ["ok"]
    assert problems and all(text.startswith("f: datasources.it: ") for text in problems)
    assert any(problem in text for text in problems), problems


@pytest.mark.parametrize("value", [[], "x", 3, [{"file": "x"}]])
def test_declarations_that_are_no_mapping_are_told(value: Json) -> None:
    assert parse(value, origin="repository", place="f")[1] == [
        "f: datasources: must be a mapping from name to source"
    ]


def test_ages_and_kinds_are_read() -> None:
    ages: dict[Json, float] = {
        "30s": 30,
        "15m": 900,
        "1.5h": 5400,
        "7d": 604_800,
        90: 90,
        "2 w": 1_209_600,
    }
    assert {age: seconds_of(age) for age in ages} == ages
    wrong: list[Json] = ["", "-1s", "1y", None, [], "9" * 400]
    assert [seconds_of(age) for age in wrong] == [None] * 6
    (found,), _ = parse({"a": {"url": "http://x/data"}}, origin="operator", place="f")
    types = ("application/json; charset=utf-8", "text/csv", "application/geo+json", "text/html", "")
    assert [kind_of(found, each) for each in types] == ["json", "csv", "json", "text", "text"]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda each: (
            st.lists(each, max_size=3)
            | st.dictionaries(
                st.sampled_from(["file", "url", "kind", "max_age", "delimiter", "bearer", "x"]),
                each,
            )
        ),
        max_leaves=8,
    )
)
def test_no_declaration_breaks_the_reader(value: Json) -> None:
    parse({"it": value}, origin="operator", place="f")
    parse(value, origin="repository", place="f")


# ---- CSV ---------------------------------------------------------------------------------


def test_a_csv_file_is_asked_in_sql_and_its_rows_are_cited_by_line(ask: Use, repo: Path) -> None:
    path = put(
        repo, "p.csv", "sku,price,name\nA1,9.99,Pen\nA2,12,\"Ink,\nblue\"\nA3,100,Desk\n",
        description="Prices", max_age="1d",
    )  # fmt: skip
    result = ask("SELECT rowid, sku, price FROM data WHERE price > 10 ORDER BY price DESC")
    assert rows(result) == [[5, "A3", 100.0], [3, "A2", 12.0]]
    told = result.data["provenance"]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (told["location"], told["sha256"], told["declared_by"], told["stale"]) == (
        "p.csv", sha256, "repository", False,
    )  # fmt: skip
    first, second, third, head, *_ = result.output.splitlines()
    assert first.startswith("[it: Prices; declared by the repository, which the task can change;")
    assert sha256[:12] in first and "fresh: max age 24 h" in second
    assert third == f"[query: {result.data['query']}]" and head == "rowid | sku | price"


def test_an_overview_shows_columns_types_and_the_first_rows(ask: Use, repo: Path) -> None:
    put(repo, "p.csv", "a,b\n" + "".join(f"{n},x{n}\n" for n in range(1000)))
    result = ask()
    assert "1,000 rows; data(a INTEGER, b TEXT)" in result.output
    assert rows(result) == [[n + 2, n, f"x{n}"] for n in range(5)]


def test_a_text_that_looks_like_a_number_stays_as_it_is(ask: Use, repo: Path) -> None:
    """Authoritative: 007 is no 7, and 1.10 of a version is no 1.1."""
    put(repo, "p.csv", "id,n,f,v,mixed\n007,1,1.5,1.10,2\n010,,2.25,1.9,x\n")
    result = ask("SELECT id, n, f, v, mixed, typeof(n), typeof(f), typeof(mixed) FROM data")
    assert rows(result) == [
        ["007", 1, 1.5, 1.1, "2", "integer", "real", "text"],
        ["010", None, 2.25, 1.9, "x", "null", "real", "text"],
    ]
    big = "12345678901234567890"
    put(repo, "p.csv", f"id\n{big}\n")
    assert rows(ask("SELECT id FROM data")) == [[big]]


@pytest.mark.parametrize(
    ("content", "expected", "note"),
    [
        ("a;b\n1,5;x\n2,5;y\n", [["1,5", "x"], ["2,5", "y"]], "the delimiter is ';'"),
        ("a\tb\n1\t2\n", [[1, 2]], "the delimiter is '\\t'"),
        ("a|b\r\n1|2\r\n", [[1, 2]], "the delimiter is '|'"),
        ("a,b\r1,2\r3,4\r", [[1, 2], [3, 4]], ""),
        ("\ufeffa,b\n1,2\n", [[1, 2]], ""),
        ("a,a,\n1,2,3\n", [[1, 2, 3]], "data(a INTEGER, a_2 INTEGER, column_3 INTEGER)"),
        ("a,b\n1\n1,2,3\n\n4,5\n", [[1, None], [1, 2], [4, 5]], "1 rows have more fields"),
        ("a,b\n1\n1,2\n", [[1, None], [1, 2]], "1 rows have fewer fields, the first in line 2"),
        ('a,b\n"x ""y""",2\n', [['x "y"', 2]], ""),
        ("only\n", [], "[no row]"),
        ("rowid,b\n7,8\n", [[7, 8]], "rowid_ INTEGER"),
        ('"a""; DROP TABLE data; --",b\n1,2\n', [[1, 2]], "DROP TABLE"),
        ("ä,ß\n1,ö\n".encode("latin-1"), [[1, "\ufffd"]], "it is no UTF-8 everywhere"),
        ("a,b\n1,ü\n".encode("utf-16"), [[1, "ü"]], ""),
    ],
)
def test_odd_dialects_are_read_or_told(
    ask: Use, repo: Path, content: str | bytes, expected: list[list[Json]], note: str
) -> None:
    put(repo, "p.csv", content)
    assert rows(ask("SELECT * FROM data")) == expected
    assert note in ask().output


def test_a_declared_delimiter_is_taken(ask: Use, repo: Path) -> None:
    put(repo, "p.csv", "a:b,c\n1:2,3\n", delimiter=":")
    assert rows(ask('SELECT a, "b,c" FROM data')) == [[1, "2,3"]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is empty"),
        (b"a,b\n\0\0\n", "it is no text"),
        ('a,b\n1,"' + "x" * (2 << 20), "it is no CSV from line 2 on: field larger"),
        (",".join("c" * 5000) + "\n", "at most 300 are read"),
    ],
)
def test_what_is_no_csv_is_told(ask: Use, repo: Path, content: str | bytes, said: str) -> None:
    put(repo, "p.csv", content)
    result = ask()
    assert (result.ok, result.kind) == (False, "failed") and said in result.output
    assert "source 'it' (p.csv)" in result.output


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet='ab1.,;|\t"\n\r é', max_size=120))
def test_whatever_a_csv_file_holds_is_a_table_or_told(text: str) -> None:
    try:
        table = tables.from_csv(text)
    except Unreadable as error:
        assert str(error)
    else:
        found = databases.query(table.db, "SELECT count(*) FROM data", limit=5)
        assert found.rows == ((table.rows,),)


# ---- JSON --------------------------------------------------------------------------------


def test_json_is_read_by_pointer(ask: Use, repo: Path) -> None:
    put(repo, "a.json", json.dumps({"a/b": [{"~": 1}, {"x": [10, 20]}], "": {"k": None}}))
    assert ask("/a~1b/0/~0").output.endswith("\n1")
    assert ask("/a~1b/1/x").output.endswith("[\n 10,\n 20\n]")
    assert ask("//k").output.endswith("null")
    assert '"a/b"' in ask().output
    for pointer, said in (
        ("/a~1b/7", "/a~1b is a list of 2, the first is an object with keys ~; '7' is none of its"),
        ("/a~1b/-1", "'-1' is none of its numbers"),
        ("/nothing", "the whole has no key 'nothing'"),
        ("/a~1b/0/~0/deeper", "which has no 'deeper' in it"),
    ):
        result = ask(pointer)
        assert (result.ok, result.kind) == (False, "not_found") and said in result.output
    assert ask("a.b").kind == "bad_input" and "begins with /" in ask("a.b").output
    assert "SQL asks a JSON list" in ask("SELECT 1 FROM data").output


def test_a_json_list_and_json_lines_are_asked_in_sql(ask: Use, repo: Path) -> None:
    items: list[Json] = [
        {"id": 1, "tags": ["a"], "ok": True, "big": 1 << 70}, {"id": 2, "n": 1.5}, "alone", None,
    ]  # fmt: skip
    expected = [
        [1, 1, '["a"]', 1, str(1 << 70), None, None], [2, 2, None, None, None, 1.5, None],
        [3, None, None, None, None, None, "alone"], [4, None, None, None, None, None, None],
    ]  # fmt: skip
    put(repo, "a.json", json.dumps(items))
    query = "SELECT rowid, id, tags, ok, big, n, value FROM data"
    assert rows(ask(query)) == expected
    put(repo, "a.jsonl", "\n".join(json.dumps(item) for item in items) + "\n\n")
    assert rows(ask(query)) == expected


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "[" * 10_000 + "]" * 10_000, "it is nested too deep"),
        ("a.json", '{"a":' * 10_000 + "1" + "}" * 10_000, "it is nested too deep"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 10_000 + "]" * 10_000, "it is nested too deep"),
        ("a.json", "{'a': 1}", "it is no JSON: Expecting property name"),
        ("a.json", "", "it is no JSON: Expecting value (line 1, column 1)"),
        ("a.json", "9" * 5000, "it is no JSON that can be read"),
        ("a.jsonl", '{"a": 1}\n{"a": 2', "(line 2, column"),
        ("a.jsonl", "\n".join(json.dumps({f"k{n}": 1}) for n in range(400)), "300 different keys"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_told_with_its_place(
    ask: Use, repo: Path, name: str, content: str, said: str
) -> None:
    put(repo, name, content)
    result = ask()
    assert (result.ok, result.kind) == (False, "failed") and said in result.output


def test_a_large_value_is_cut_and_says_its_shape(ask: Use, repo: Path) -> None:
    put(repo, "a.json", json.dumps({"rows": [{"n": n} for n in range(5000)]}))
    result = ask()
    assert "It is an object with keys rows;" in result.output
    assert len(result.output) <= OUTPUT_CHARS_MAX and "[it; declared by" in result.output


# ---- text --------------------------------------------------------------------------------


def test_text_is_read_by_words_and_by_lines(ask: Use, repo: Path) -> None:
    put(repo, "rates.txt", "".join(f"rate {n} of Bank\n" for n in range(1, 1001)))
    found = ask("bank RATE 77", limit=3)
    assert found.data["lines"] == [77, 177, 277] and "77: rate 77 of Bank" in found.output
    assert "[16 more of 19 lines]" in found.output
    assert ask("10-12").output.splitlines()[-3:] == [f"{n}: rate {n} of Bank" for n in (10, 11, 12)]
    assert ask("2000-2001").kind == "bad_input"
    assert "has lines 1-1000" in ask("0-3").output
    assert "no line has these words" in ask("unicorn").output
    assert "SQL cannot ask" in ask("SELECT a FROM b").output
    assert len(ask().output) <= OUTPUT_CHARS_MAX


# ---- SQLite ------------------------------------------------------------------------------


@pytest.fixture
def orders(repo: Path) -> Path:
    declare(repo, it={"file": "orders.db"})
    return database(
        repo / "orders.db",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, who TEXT, paid REAL, raw BLOB)",
        "INSERT INTO orders VALUES (1, 'ada', 9.5, x'00ff'), (2, 'bob|x\ny', NULL, zeroblob(100))",
        "CREATE VIEW paid AS SELECT id FROM orders WHERE paid IS NOT NULL",
        "CREATE VIEW broken AS SELECT * FROM gone",
    )


def test_a_database_is_listed_and_asked(ask: Use, orders: Path) -> None:
    overview = ask()
    assert "orders(id INTEGER, who TEXT, paid REAL, raw BLOB)" in overview.output
    assert "paid(id INTEGER)" in overview.output
    result = ask("SELECT * FROM orders ORDER BY id")
    assert rows(result)[0] == [1, "ada", 9.5, "x'00ff'"]
    assert "2 | bob\\|x\\ny | NULL | x'" in result.output and "(of 100 bytes)" in result.output
    assert rows(ask("SELECT count(*) FROM paid")) == [[1]]
    assert rows(ask("PRAGMA table_info(orders)"))[0][1] == "id"
    assert rows(ask("SELECT value FROM json_each('[1, 2]')")) == [[1], [2]]
    assert rows(ask("SELECT name FROM pragma_table_info('paid')")) == [["id"]]
    empty = ask("SELECT id, who FROM orders WHERE id = 9")
    assert empty.data["columns"] == ["id", "who"] and "[no row]" in empty.output


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO orders (id) VALUES (3)",
        "UPDATE orders SET who = 'eve'",
        "DELETE FROM orders",
        "DROP TABLE orders",
        "CREATE TABLE x (a)",
        "CREATE TEMP TABLE x (a)",
        "CREATE TEMP VIEW x AS SELECT 1",
        "ATTACH '/etc/passwd' AS a",
        "ATTACH ':memory:' AS a",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO '/tmp/stolen.db'",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT a",
        "PRAGMA journal_mode = WAL",
        "PRAGMA writable_schema = 1",
        "PRAGMA query_only = 0",
        "PRAGMA temp_store_directory = '/tmp'",
        "SELECT load_extension('/tmp/x.so')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT 1; DROP TABLE orders",
        "SELECT 1; SELECT 2",
        "WITH a AS (SELECT 1) DELETE FROM orders",
        "SELECT * FROM orders; ATTACH 'x' AS y",
        "REPLACE INTO orders (id) VALUES (1)",
        "ALTER TABLE orders ADD COLUMN x",
        "CREATE VIRTUAL TABLE x USING fts5(a)",
        "CREATE TRIGGER t AFTER INSERT ON orders BEGIN SELECT 1; END",
        "SELECT * FROM nowhere",
        "SELECT FROM WHERE",
        "not sql at all",
        "SELECT '" + "x" * 19_990 + "'",
        "SELECT \0",
    ],
)
def test_nothing_but_one_select_is_run(ask: Use, repo: Path, orders: Path, query: str) -> None:
    before = (orders.read_bytes(), sorted(os.listdir(repo)))
    result = ask(query)
    if query.startswith("SELECT 'x"):
        assert result.ok and "(19,990 characters)" in result.output
    else:
        assert (result.ok, result.kind) == (False, "bad_input"), result.output
        assert "source 'it': " in result.output
    assert (orders.read_bytes(), sorted(os.listdir(repo))) == before
    assert not os.path.exists("/tmp/stolen.db")
    assert rows(ask("SELECT count(*) FROM orders")) == [[2]], "the next query works"


def test_a_refusal_says_what_was_asked_and_what_would_do(ask: Use, orders: Path) -> None:
    assert (
        "INSERT orders is not allowed: data is read-only, and only SELECT is run"
        in ask("INSERT INTO orders (id) VALUES (3)").output
    )
    assert "ATTACH /etc/passwd is not allowed" in ask("ATTACH '/etc/passwd' AS a").output
    assert "only one statement at a time" in ask("SELECT 1; SELECT 2").output


@pytest.mark.parametrize(
    "query",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "SELECT hex(zeroblob(1000000000))",
        "SELECT replace(hex(zeroblob(4000000)), '0', 'aaaaaaaaaa')",
    ],
)
def test_a_query_without_end_or_measure_is_stopped(
    ask: Use, orders: Path, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases.query, "__kwdefaults__", {"seconds": 0.2})
    result = ask(query)
    assert (result.ok, result.kind) == (False, "failed"), result.output
    assert "was stopped" in result.output or "has more than" in result.output
    assert rows(ask("SELECT 1")) == [[1]]


def test_rows_without_end_are_cut_at_the_limit(ask: Use, orders: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    result = ask(endless, limit=7)
    assert rows(result) == [[n] for n in range(1, 8)]
    assert result.data["more"] and "more than 7 rows" in result.output
    wide = ask(endless.replace("SELECT i FROM", "SELECT printf('%.400c', 'x') FROM"), limit=500)
    assert len(wide.output) <= OUTPUT_CHARS_MAX and "rows cut: ask for fewer" in wide.output


def test_a_database_with_a_journal_is_read_without_writing_beside_it(
    ask: Use, repo: Path, orders: Path
) -> None:
    """In WAL mode the newest rows lie in another file; READ must leave the workspace as it is."""
    writer = apsw.Connection(str(orders))
    writer.pragma("journal_mode", "wal")
    writer.execute("INSERT INTO orders (id, who) VALUES (3, 'new')")
    before = {name: (repo / name).read_bytes() for name in os.listdir(repo)}
    assert rows(ask("SELECT who FROM orders WHERE id = 3")) == [["new"]]
    assert {name: (repo / name).read_bytes() for name in os.listdir(repo)} == before
    writer.close()
    assert rows(ask("SELECT count(*) FROM orders")) == [[3]]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 5000, b"no database"])
def test_what_is_no_database_is_told(ask: Use, repo: Path, content: bytes) -> None:
    put(repo, "x.db", content)
    for query in ("", "SELECT * FROM sqlite_schema"):
        result = ask(query)
        if not content:
            assert result.ok, "an empty file is an empty database"
        else:
            assert (result.ok, result.kind) == (False, "failed") and "(x.db)" in result.output


# ---- hostile files -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.txt", "x.db"])
def test_what_cannot_be_read_is_told_by_its_source(
    ask: Use, repo: Path, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / f"secret-{name}"
    secret.write_text("secret,token\n1,2\n", encoding="utf-8")
    path = put(repo, name, "")
    made: dict[str, tuple[Callable[[], object], str]] = {
        "a link that leaves": (lambda: path.symlink_to(secret), "leads out of"),
        "a link in a circle": (lambda: path.symlink_to(name), "lead in a circle"),
        "a named pipe": (lambda: os.mkfifo(path), "a named pipe"),
        "a directory": (path.mkdir, "a directory"),
        "a huge file": (lambda: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 30),
                        "it has 1,073,741,824 bytes, and at most"),
        "nothing": (lambda: None, "there is no such file"),
    }  # fmt: skip
    for what, (make, said) in made.items():
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        make()
        result = ask()
        assert not result.ok and said in result.output, what
        assert result.output.startswith(f"source 'it' ({name}): "), what
        assert "token" not in result.output
    declare(repo, it={"file": f"../secret-{name}"})
    assert ask().kind == "refused" and "leads out of" in ask().output


def test_a_declaration_file_that_is_none_is_told(use: Use, repo: Path, tmp_path: Path) -> None:
    path = repo / ".agent-runtime.yaml"
    for content in (b"\xff\xfe", b"a: [", b"&a [*a]", b"- 1", b"x" * (2 << 20)):
        path.write_bytes(content)
        assert use("list_datasources").ok
        assert use("query_datasource", source="it").kind == "not_found"
    path.unlink()
    (tmp_path / "outside.yaml").write_text("datasources: {it: {file: x.csv}}", encoding="utf-8")
    path.symlink_to(tmp_path / "outside.yaml")
    assert "leads out of" in use("list_datasources").output


def test_an_old_file_is_stale(ask: Use, repo: Path) -> None:
    path = put(repo, "p.csv", "a\n1\n", max_age="1h")
    os.utime(path, (1_600_000_000, 1_600_000_000))
    result = ask()
    assert result.data["provenance"]["stale"] is True
    assert (
        "modified 2020-09-13T12:26:40Z" in result.output
        and "STALE: max age 60 min" in result.output
    )
    put(repo, "p.csv", "a\n1\n")
    assert ask().data["provenance"]["stale"] is None


def test_a_changed_file_is_read_anew(ask: Use, repo: Path) -> None:
    path = put(repo, "p.csv", "a\n1\n")
    assert rows(ask("SELECT a FROM data")) == [[1]]
    path.write_text("a\n2\n", encoding="utf-8")
    assert rows(ask("SELECT a FROM data")) == [[2]]


def test_a_repositorys_own_file_may_declare_sources_beside_its_environment() -> None:
    """`.agent-runtime.yaml` has one reader for each part, and both must take the other's."""
    for sources in ("{p: {file: p.csv}}", "[wrong]", "3", ""):
        text = f"environment: {{env: {{A: b}}}}\ndatasources: {sources}\n"
        assert read_environment(text, name="x").env == {"A": "b"}
