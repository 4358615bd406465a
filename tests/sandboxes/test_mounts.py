"""What a spec makes visible, looked at without starting anything."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.sandboxes import interpreters, mounts
from agent_runtime.sandboxes.interpreters import Bind, interpreter_binds, venv_binds
from agent_runtime.sandboxes.mounts import Mounts
from tests.sandboxes.support import TOOLS, make_spec


def shown(plan: Mounts) -> dict[str, tuple[str, str]]:
    """destination -> (option, host path)."""
    found = {}
    for place, option in enumerate(plan.options):
        if option in ("--bind", "--ro-bind"):
            source, destination = plan.options[place + 1 : place + 3]
            match source:
                case int():
                    source = plan.sources[source]
                case [int(number), str(below)]:
                    source = os.path.join(plan.sources[number], below)
            found[str(destination)] = (str(option), str(source))
    return found


def test_the_workspace_and_home_are_all_that_is_writable(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    spec = make_spec(tmp_path, home=str(home))
    writable = {
        destination: source
        for destination, (option, source) in shown(mounts.mounts(spec, worker=True)).items()
        if option == "--bind"
    }
    assert writable == {spec.mount: spec.workspace, "/home/agent": str(home)}


def test_a_parent_is_mounted_before_what_is_inside_it(tmp_path: Path) -> None:
    plan = mounts.mounts(make_spec(tmp_path, mount="/tmp/a/b"), worker=True)
    order = [str(option) for option in plan.options]
    assert order.index("/tmp") < order.index("/tmp/a/b")
    assert order[-4:] == ["--remount-ro", "/dev", "--remount-ro", "/"]


@pytest.mark.parametrize(
    "mount",
    ["/", "/proc/x", "/dev", "/usr", "/etc/x", "/tmp", "relative", "/a/../b", "/a/", "/run"],
)
def test_a_workspace_cannot_hide_the_system(tmp_path: Path, mount: str) -> None:
    with pytest.raises(SandboxUnavailable, match="mount"):
        mounts.mounts(make_spec(tmp_path, mount=mount), worker=False)


def test_home_moves_out_of_the_workspaces_way(tmp_path: Path) -> None:
    assert mounts.home_of(make_spec(tmp_path, mount="/home/agent")) == "/var/home/agent"
    assert mounts.home_of(make_spec(tmp_path, mount="/home")) == "/var/home/agent"
    assert mounts.home_of(make_spec(tmp_path, mount="/home/agent/x")) == "/home/agent"


def test_only_packages_go_into_the_worker_never_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "plugin"
    package.mkdir()
    (package / "__init__.py").touch()
    directory = tmp_path / "directory"
    directory.mkdir()
    binds = {
        destination: source
        for source, destination in mounts.worker_binds([TOOLS, str(package), str(directory)])
    }
    assert binds["/run/agent-runtime/packages/tools_for_tests.py"] == TOOLS
    assert binds["/run/agent-runtime/packages/plugin"] == str(package)
    assert binds["/run/agent-runtime/plugins/2"] == str(directory)
    runtime = binds["/run/agent-runtime/packages/agent_runtime"]
    assert os.path.isfile(os.path.join(runtime, "ports", "tools.py"))
    checkout = os.path.dirname(runtime)
    assert os.path.basename(checkout) == "site-packages" or checkout not in binds.values()
    with pytest.raises(SandboxUnavailable, match="absent"):
        mounts.worker_binds([str(tmp_path / "absent")])


def test_read_only_paths_may_be_named_three_ways(tmp_path: Path) -> None:
    (tmp_path / "workspace" / ".git").mkdir(parents=True)
    base = make_spec(tmp_path)
    for path in (".git", f"{base.workspace}/.git", f"{base.mount}/.git", "./.git"):
        plan = mounts.mounts(replace(base, read_only_paths=(path,)), worker=False)
        destination = f"{base.mount}/.git"
        assert shown(plan)[destination] == ("--ro-bind", f"{base.workspace}/.git")
    absent = mounts.mounts(replace(base, read_only_paths=("absent",)), worker=False)
    assert f"{base.mount}/absent" not in shown(absent)


def test_a_read_only_path_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """The link itself could be replaced; and it may lead anywhere."""
    spec = make_spec(tmp_path, read_only_paths=(".git",))
    (Path(spec.workspace) / ".git").symlink_to("/root")
    with pytest.raises(SandboxUnavailable, match="symbolic link"):
        mounts.mounts(spec, worker=False)
    for path in ("../x", ".", "/etc"):
        with pytest.raises(SandboxUnavailable, match="not below"):
            mounts.mounts(replace(spec, read_only_paths=(path,)), worker=False)


def test_the_environment_is_complete_and_the_tasks_wins(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, python="/v", env={"LANG": "de_DE.UTF-8", "X": "1"})
    env = mounts.variables(spec, "/home/agent")
    assert env["PATH"].split(":")[0] == "/v/bin" and env["VIRTUAL_ENV"] == "/v"
    assert (env["LANG"], env["X"], env["HOME"]) == ("de_DE.UTF-8", "1", "/home/agent")
    assert "TERM" not in env
    assert "VIRTUAL_ENV" not in mounts.variables(replace(spec, python=None), "/home/agent")


@pytest.mark.parametrize(
    "env", [{"A": "x\0--bind\0/\0/host"}, {"A\0B": "x"}, {"A=B": "x"}, {"": "x"}]
)
def test_a_variable_cannot_smuggle_an_option(tmp_path: Path, env: dict[str, str]) -> None:
    """Options travel in a file, each ended by a zero byte."""
    with pytest.raises(SandboxUnavailable, match="cannot be the name"):
        mounts.mounts(make_spec(tmp_path, env=env), worker=True)


def test_a_path_has_no_zero_byte(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="zero byte"):
        mounts.mounts(make_spec(tmp_path, mount="/a\0--bind\0/\0/b"), worker=True)


# ---- interpreters --------------------------------------------------------------------------------


def prefix(path: Path) -> Path:
    """A Python installation as far as this code can tell."""
    (path / "bin").mkdir(parents=True)
    (path / "lib" / "python3.11").mkdir(parents=True)
    (path / "lib" / "python3.11" / "os.py").touch()
    (path / "bin" / "python3.11").touch(mode=0o755)
    return path


def venv(path: Path, python: Path, home: Path | None = None) -> Path:
    (path / "bin").mkdir(parents=True)
    (path / "pyvenv.cfg").write_text(f"home = {home or python.parent}\n")
    (path / "bin" / "python").symlink_to(python)
    (path / "bin" / "python3").symlink_to("python")
    return path


def test_a_venv_brings_the_prefix_behind_its_links(tmp_path: Path) -> None:
    """As uv makes it: a link to a directory that is itself a link to the version."""
    real = prefix(tmp_path / "python" / "3.11.7")
    (tmp_path / "python" / "3.11").symlink_to("3.11.7")
    made = venv(tmp_path / "venv", tmp_path / "python" / "3.11" / "bin" / "python3.11")
    assert venv_binds(str(made)) == [
        Bind(str(made), str(made)),
        Bind(str(real), str(tmp_path / "python" / "3.11")),
        Bind(str(real), str(real)),
    ]


def test_what_a_venv_names_is_not_believed(tmp_path: Path) -> None:
    """An agent may have written it: no directory without Python's library, no file but a python."""
    secret = tmp_path / "home" / ".ssh" / "id_rsa"
    secret.parent.mkdir(parents=True)
    secret.touch(mode=0o600)
    made = venv(tmp_path / "venv", secret, home=tmp_path / "home" / "bin")
    assert venv_binds(str(made)) == [Bind(str(made), str(made))]
    with pytest.raises(SandboxUnavailable, match=r"not a venv \(it has no pyvenv.cfg\)"):
        venv_binds(str(tmp_path / "home"))


def test_nobodys_home_is_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python installed with --prefix=$HOME must not show everything in it."""
    home = prefix(tmp_path / "me")
    monkeypatch.setenv("HOME", str(home))
    python = home / "bin" / "python3.11"
    assert interpreter_binds(str(python)) == [Bind(str(python), str(python))]


def test_the_systems_interpreter_needs_no_bind() -> None:
    assert interpreter_binds("/usr/bin/python3") == []


def test_our_own_interpreter_is_no_link_of_a_venv() -> None:
    own = interpreters.own_interpreter()
    assert os.path.exists(own)
    if sys.prefix != sys.base_prefix:
        assert not own.startswith(sys.prefix + "/")


def test_a_link_in_the_workspace_is_not_bound_over(tmp_path: Path) -> None:
    """`.venv -> ~/venvs/x`: the real place is visible, and the link leads there."""
    real = venv(tmp_path / "venvs" / "x", Path("/usr/bin/python3"))
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / ".venv").symlink_to(real)
    spec = make_spec(tmp_path, mount=str(workspace), python=str(workspace / ".venv"))
    places = shown(mounts.mounts(spec, worker=False))
    assert str(workspace / ".venv") not in places
    assert places[str(real)] == ("--ro-bind", str(real))
