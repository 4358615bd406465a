"""Discovery, allow-list and quarantine, against distributions that lie on disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runtime import plugins
from agent_runtime.errors import PluginError
from agent_runtime.plugins import MODULES, STORES, TOOLS, Plugins
from tests.plugins.installed import HEAD, importable, install

GOOD = HEAD + "\ndef tools():\n    return [made('acme_look')]\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "site"
    directory.mkdir()
    with importable(directory):
        yield directory


def names(found: Plugins) -> list[str]:
    return [tool.name for each in found.loaded for tool in each.contribution.tools]


def load(site: Path, *allowed: str) -> Plugins:
    return plugins.load(allowed=allowed, paths=[str(site)])


def broken(site: Path, source: str, *, group: str = TOOLS, target: str = "bad_one:tools") -> str:
    """Install one broken plug-in beside a good one; the reason why it is in quarantine."""
    install(site, "good-one", {TOOLS: {"g": "good_one:tools"}}, {"good_one.py": GOOD})
    install(site, "bad-one", {group: {"b": target}}, {"bad_one.py": source})
    found = load(site, "good-one", "bad-one")
    assert names(found) == ["acme_look"], "the good one is loaded all the same"
    [quarantined] = found.quarantined
    assert quarantined.plugin.distribution == "bad-one"
    assert "bad-one" in quarantined.remedy
    assert plugins.SETTING in quarantined.remedy
    assert "'b'" in str(quarantined)
    return quarantined.reason


# ---- the allow-list --------------------------------------------------------------------------


def test_an_installed_plugin_is_listed_and_not_imported_until_it_is_allowed(site: Path) -> None:
    install(site, "Acme.Tools", {TOOLS: {"a": "acme:tools"}}, {"acme.py": "raise SystemExit"})
    found = load(site)
    assert (found.loaded, found.quarantined) == ((), ())
    [refused] = found.not_allowed
    assert str(refused) == (
        "plug-in 'a' (agent_runtime.tools) of acme-tools 1.0: it is installed and not allowed; "
        "to load it, add 'acme-tools' to AGENT_RUNTIME_PLUGINS (separated by commas)"
    )
    assert "acme" not in sys.modules


@pytest.mark.parametrize("spelling", ["acme-tools", "Acme_Tools", "acme.tools", " ACME--tools "])
def test_names_are_compared_as_installers_do(site: Path, spelling: str) -> None:
    """PEP 503."""
    install(site, "Acme.Tools", {TOOLS: {"a": "acme:tools"}}, {"acme.py": GOOD})
    assert names(load(site, spelling)) == ["acme_look"]


def test_the_setting_is_a_list_separated_by_commas() -> None:
    assert plugins.allow_list("acme-tools, Other.One,,") == {"acme-tools", "other-one"}
    assert plugins.allow_list("") == frozenset()


def test_an_allowed_name_without_a_plugin_is_told(site: Path) -> None:
    assert load(site, "Not.There", "agent-runtime").not_installed == ("not-there",)


def test_builtins_load_without_being_named() -> None:
    found = plugins.load()
    builtin = {each.plugin.name for each in found.loaded if each.plugin.builtin}
    assert {"shell", "files", "search"} <= builtin
    assert {each.plugin.distribution for each in found.loaded} == {"agent-runtime"}


def test_a_tool_remembers_where_the_worker_finds_it(site: Path) -> None:
    install(
        site, "acme", {TOOLS: {"a": "acme.inner:Made.tools [extra]"}},
        {"acme/__init__.py": "", "acme/inner.py": HEAD + """
class Made:
    @staticmethod
    def tools():
        return [made('acme_look')]
"""},
    )  # fmt: skip
    [loaded] = load(site, "acme").loaded
    assert loaded.contribution.sources == {"acme_look": "acme.inner:Made.tools"}


def test_of_two_distributions_of_one_name_the_first_on_the_path_counts(tmp_path: Path) -> None:
    for number in (1, 2):
        install(
            tmp_path / str(number), "acme", {TOOLS: {"a": "acme:tools"}}, {}, version=f"{number}.0"
        )
    found, _ = plugins.discover([str(tmp_path / "2"), str(tmp_path / "1")])
    assert [each.version for each in found] == ["2.0"]


# ---- quarantine --------------------------------------------------------------------------------


def test_a_plugin_that_raises_at_import_is_quarantined(site: Path) -> None:
    reason = broken(site, "x = 1\nraise RuntimeError('no licence')")
    place = site / "bad_one.py"
    assert reason == (f"importing 'bad_one' raised RuntimeError: no licence (at {place}:2)")


def test_a_plugin_that_exits_at_import_is_quarantined(site: Path) -> None:
    reason = broken(site, "import sys\nsys.exit('bye')")
    assert reason.startswith("importing 'bad_one' called sys.exit('bye') (at ")


def test_a_plugin_that_raises_a_base_exception_is_quarantined(site: Path) -> None:
    reason = broken(site, "class Odd(BaseException): pass\nraise Odd")
    assert reason.startswith("importing 'bad_one' raised Odd (at ")


def test_a_plugin_with_a_missing_dependency_is_quarantined(site: Path) -> None:
    assert "'not_there_at_all' too?" in broken(site, "import not_there_at_all")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def tools(): return None", "'bad_one:tools' returned None, and must return a list"),
        ("def tools(): return 'abc'", "returned an object of type 'str'"),
        ("tools = []", "'bad_one:tools' is an object of type 'list', and must be"),
        ("async def tools(): return []", "'bad_one:tools' is an async function"),
        ("def tools(): return [3]", "tool 0 (an object of type 'int') of 'bad_one:tools': it has "
                                    "no 'name'"),
        ("def tools(): raise KeyError('k')", "calling 'bad_one:tools' raised KeyError: 'k'"),
        ("def tools(): exit(3)", "calling 'bad_one:tools' called sys.exit(3)"),
        ("other = 1", "'bad_one:tools' raised AttributeError"),
        ("def tools(): return [made('Bad Name')]", "a name is lower case"),
        ("def tools(): return [made('twice'), made('twice')]", "two tools called 'twice'"),
        ("def tools(): return [made('x', where='moon')]", "tool 'x' of 'bad_one:tools': 'where' "
                                                          "must be 'worker' or 'daemon'"),
        ("def tools(): return [made('x', toolbelt='')]", "its toolbelt '' must be"),
    ],
)  # fmt: skip
def test_a_bad_definition_is_quarantined(site: Path, source: str, reason: str) -> None:
    assert reason in broken(site, HEAD + source)


HAND_MADE = """
class Look:
    name, description, toolbelt, where = "look", "Looks.", "standard", "worker"
    parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    def effect(self, arguments, policy): ...
    async def execute(self, call): ...
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("def execute(self, call): ...", "'execute' must be an async method"),
        ("effect = 'read'", "'effect' must be a method"),
        ("description = ' '", "it has no description"),
        ("parameters = []", "must be a JSON schema of type 'object'"),
        ("parameters = {'type': 'object'}", "must say additionalProperties: false"),
        ("parameters = {**parameters, 'required': ['x']}", "argument 'x' has no schema"),
        ("parameters = {**parameters, 'x': object()}", "'parameters' is no JSON"),
        ("name = property(lambda self: 1 / 0)", "raised ZeroDivisionError"),
        ("where = ['worker']", "'where' must be"),
    ],
)
def test_a_tool_made_by_hand_is_checked_as_well(site: Path, change: str, reason: str) -> None:
    assert reason in broken(site, f"{HAND_MADE}    {change}\ndef tools(): return [Look()]\n")


def test_a_tool_made_by_hand_is_a_tool(site: Path) -> None:
    source = f"{HAND_MADE}\ndef tools(): return [Look()]\n"
    install(site, "acme", {TOOLS: {"a": "acme:tools"}}, {"acme.py": source})
    assert names(load(site, "acme")) == ["look"]


def test_the_second_plugin_with_a_tools_name_is_quarantined_and_keeps_none_of_it(
    site: Path,
) -> None:
    """Our contract: which of two is the second does not depend on the order of installation."""
    two = HEAD + "def tools(): return [made('zz_other'), made('acme_look')]"
    install(site, "second", {TOOLS: {"s": "second:tools"}}, {"second.py": two})
    install(site, "first", {TOOLS: {"f": "first:tools"}}, {"first.py": GOOD})
    found = load(site, "first", "second")
    assert names(found) == ["acme_look"]
    assert [each.reason for each in found.quarantined] == [
        "its tool 'acme_look' has the name of one of plug-in 'f' (agent_runtime.tools) of first 1.0"
    ]


def test_no_plugin_takes_the_name_of_a_tool_that_the_loop_answers(site: Path) -> None:
    source = HEAD + "def tools(): return [made('find_tools')]"
    reason = broken(site, source)
    assert reason == "its tool 'find_tools' has the name of one that the runtime answers"


def test_no_plugin_takes_the_name_of_a_builtin_tool(site: Path) -> None:
    install(
        site, "aaa", {TOOLS: {"a": "aaa:tools"}},
        {"aaa.py": HEAD + "def tools(): return [made('shell')]"},
    )  # fmt: skip
    found = plugins.load(allowed=["aaa"])
    [refused] = [each for each in found.quarantined if each.plugin.distribution == "aaa"]
    assert "'shell' has the name of one of plug-in 'shell'" in refused.reason
    assert "shell" in names(found)


def test_an_entry_point_without_an_attribute_is_quarantined(site: Path) -> None:
    assert "must have the form" in broken(site, HEAD, target="bad_one")


def test_metadata_that_cannot_be_read_hides_nothing_else(site: Path) -> None:
    install(site, "good-one", {TOOLS: {"g": "good_one:tools"}}, {"good_one.py": GOOD})
    install(site, "bad-one", {}, {})
    (site / "bad_one-1.0.dist-info" / "entry_points.txt").write_bytes(
        b"[agent_runtime.tools]\nx = \xff\xfe"
    )
    found = load(site, "good-one")
    assert names(found) == ["acme_look"]
    [refused] = found.quarantined
    assert refused.plugin.distribution == "bad-one"
    assert "cannot be read" in refused.reason


def test_what_a_plugin_prints_while_it_loads_does_not_reach_stdout(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stdout may be a protocol (MCP over stdio, `--json`)."""
    install(site, "acme", {TOOLS: {"a": "acme:tools"}}, {"acme.py": "print('hello')\n" + GOOD})
    assert names(load(site, "acme")) == ["acme_look"]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


# ---- modules -----------------------------------------------------------------------------------

MODULE = (
    HEAD
    + """
class M:
    name, description = "acme", "A test module."
    where, toolbelt = "daemon", "acme"
    def tools(self): return [made("acme_do", where=self.where, toolbelt=self.toolbelt)]
    async def initialize(self, context): ...
    async def cleanup(self): ...
    async def health(self): ...
"""
)


def test_a_module_is_made_and_not_started(site: Path) -> None:
    install(site, "acme", {MODULES: {"a": "acme:M"}}, {"acme.py": MODULE})
    [loaded] = load(site, "acme").loaded
    assert loaded.contribution.module is not None
    assert loaded.contribution.module.name == "acme"
    assert loaded.contribution.sources == {"acme_do": "acme:M"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("where = 'worker'", "tool 'acme_do' of bad_one:M has where='worker', and a module does "
                             "not live there: give the module source ="),
        ("where = 'worker'; source = 'bad_one:nothing'", "raised AttributeError"),
        ("where = 'worker'; source = 'bad_one:other'", "does not return its worker tool 'acme_do'"),
        ("toolbelt = 'standard'", "'standard', which is always on"),
        ("name = 'A B'", "its name must be lower case"),
        ("def health(self): ...", "no async method 'health'"),
        ("initialize = None", "no async method 'initialize'"),
        ("def tools(self): exit()", "tools() of bad_one:M called sys.exit(None)"),
        ("def tools(self): return 7", "must return a list of tools"),
        ("def __init__(self): raise OSError('disk')", "calling 'bad_one:M' raised OSError: disk"),
        ("def __init__(self, needed): ...", "raised TypeError"),
    ],
)  # fmt: skip
def test_a_bad_module_is_quarantined(site: Path, change: str, reason: str) -> None:
    source = f"{MODULE}    {change}\ndef other(): return [made('other')]\n"
    assert reason in broken(site, source, group=MODULES, target="bad_one:M")


def test_worker_tools_of_a_module_are_found_at_its_source(site: Path) -> None:
    source = (
        f"{MODULE}    where = 'worker'; source = 'acme:tools'\ndef tools(): return M().tools()\n"
    )
    install(site, "acme", {MODULES: {"a": "acme:M"}}, {"acme.py": source})
    [loaded] = load(site, "acme").loaded
    assert loaded.contribution.sources == {"acme_do": "acme:tools"}
    assert loaded.contribution.paths == (str(site / "acme.py"),)


# ---- the other groups ----------------------------------------------------------------------------


def test_a_store_is_imported_only_when_it_is_asked_for(site: Path) -> None:
    install(site, "acme", {STORES: {"acmedb": "acme:Store"}}, {"acme.py": "class Store: ..."})
    found = load(site, "acme")
    assert [each.name for each in found.waiting] == ["acmedb"]
    assert "acme" not in sys.modules
    store = plugins.load_one(STORES, "acmedb", allowed=["acme"], paths=[str(site)])
    assert store is sys.modules["acme"].Store


def test_a_plugin_that_is_asked_for_and_cannot_be_had_says_why(site: Path) -> None:
    install(site, "acme", {STORES: {"acmedb": "acme:Store"}}, {"acme.py": "import nothing_here"})
    for allowed, name, reason in [
        (["acme"], "acmdb", "did you mean 'acmedb'"),
        ([], "acmedb", "add 'acme' to AGENT_RUNTIME_PLUGINS"),
        (["acme"], "acmedb", "No module named 'nothing_here'"),
    ]:
        with pytest.raises(PluginError, match=reason):
            plugins.load_one(STORES, name, allowed=allowed, paths=[str(site)])


# ---- what the sandbox needs ----------------------------------------------------------------------


def test_a_package_outside_of_site_packages_is_handed_to_the_sandbox_by_itself(site: Path) -> None:
    """As after `pip install --editable`: never the checkout that it lies in."""
    modules = {"acme/__init__.py": "", "acme/inner.py": GOOD, "secret.txt": ""}
    install(site, "acme", {TOOLS: {"a": "acme.inner:tools"}}, modules)
    assert plugins.plugin_paths(load(site, "acme")) == (str(site / "acme"),)


def test_a_module_file_is_handed_over_as_a_file(site: Path) -> None:
    install(site, "acme", {TOOLS: {"a": "acme:tools"}}, {"acme.py": GOOD})
    assert plugins.plugin_paths(load(site, "acme")) == (str(site / "acme.py"),)


def test_nothing_is_handed_over_for_daemon_tools(site: Path) -> None:
    source = HEAD + "def tools(): return [made('acme_do', where='daemon')]"
    install(site, "acme", {TOOLS: {"a": "acme:tools"}}, {"acme.py": source})
    found = load(site, "acme")
    assert (names(found), plugins.plugin_paths(found)) == (["acme_do"], ())


def test_nothing_is_handed_over_for_site_packages(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    with importable(site):
        install(site, "acme", {TOOLS: {"a": "acme:tools"}}, {"acme.py": GOOD})
        found = load(site, "acme")
    assert (names(found), plugins.plugin_paths(found)) == (["acme_look"], ())


def test_nothing_is_handed_over_for_builtins() -> None:
    assert plugins.plugin_paths(plugins.load()) == ()


def test_worker_tools_in_a_namespace_package_outside_of_site_packages_are_quarantined(
    site: Path,
) -> None:
    install(site, "acme", {TOOLS: {"a": "acme.inner:tools"}}, {"acme/inner.py": GOOD})
    [refused] = load(site, "acme").quarantined
    assert "no '__init__.py' of its own" in refused.reason


# ---- laziness ------------------------------------------------------------------------------------


def test_importing_the_loader_imports_no_plugin(tmp_path: Path) -> None:
    """Our contract: `agent-runtime --help` imports none, and neither does listing them."""
    install(tmp_path, "acme", {TOOLS: {"a": "acme:tools"}}, {"acme.py": "raise SystemExit(9)"})
    program = (
        "import sys; from agent_runtime import plugins, toolbox; plugins.discover();"
        "print([m for m in sys.modules if m.startswith(('agent_runtime_tools', 'acme'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "[]\n"
