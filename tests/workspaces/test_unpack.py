"""A pack comes from anywhere: every object must be there, and every path one of a workspace."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_runtime.errors import WorkspaceError
from agent_runtime.types import TreeId
from agent_runtime.workspaces import LocalWorkspaces
from tests.workspaces.conftest import TASK, git

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Objects:
    """A repository of somebody who writes objects by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        git("init", "--quiet", "--bare", ".", cwd=path)

    def put(self, kind: str, data: bytes) -> str:
        # `--literally`: git itself would not write some of these trees.
        arguments = ("hash-object", "-t", kind, "-w", "--stdin", "--literally")
        return git(*arguments, cwd=self.path, stdin=data).decode().strip()

    def tree(self, *entries: tuple[str, bytes, str]) -> str:
        data = (
            mode.encode() + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries
        )
        return self.put("tree", b"".join(data))

    def pack(self, *oids: str) -> bytes:
        """A pack of exactly these objects."""
        listed = "".join(f"{oid}\n" for oid in oids).encode()
        return git("pack-objects", "--stdout", "-q", cwd=self.path, stdin=listed)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "objects")


@pytest.fixture
def workspaces(tmp_path: Path) -> LocalWorkspaces:
    return LocalWorkspaces(str(tmp_path / "state"))


async def test_a_tree_whose_files_are_all_there_is_taken(
    objects: Objects, workspaces: LocalWorkspaces
) -> None:
    """Or else the refusals below would prove nothing."""
    blob = objects.put("blob", b"x")
    inner = objects.tree(("100755", b"a", blob), ("120000", b"b", blob))
    tree = objects.tree(("100644", b"a", blob), ("40000", b"d", inner))
    await workspaces.unpack(TASK, [TreeId(tree)], objects.pack(blob, inner, tree))
    empty = TreeId("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
    changes = await workspaces.changes(TASK, empty, TreeId(tree))
    assert [change.path for change in changes] == ["a", "d/a", "d/b"]


@pytest.mark.parametrize("missing", ["blob", "inner"])
async def test_a_tree_that_lacks_something_is_refused(
    objects: Objects, workspaces: LocalWorkspaces, missing: str
) -> None:
    made = {"blob": objects.put("blob", b"x")}
    made["inner"] = objects.tree(("100644", b"a", made["blob"]))
    made["tree"] = objects.tree(("40000", b"d", made["inner"]))
    packed = objects.pack(*(oid for name, oid in made.items() if name != missing))
    with pytest.raises(WorkspaceError, match="not whole"):
        await workspaces.unpack(TASK, [TreeId(made["tree"])], packed)


@pytest.mark.parametrize("name", [b"..", b".", b".git", b"", b"../../x", b"/etc/x", b"a//b"])
async def test_a_path_that_leaves_the_workspace_is_refused(
    objects: Objects, workspaces: LocalWorkspaces, name: bytes
) -> None:
    """A later check writes the tree to a disk."""
    blob = objects.put("blob", b"x")
    tree = objects.tree(("100644", name, blob))
    with pytest.raises(WorkspaceError):
        await workspaces.unpack(TASK, [TreeId(tree)], objects.pack(blob, tree))


async def test_a_file_below_a_link_is_refused(
    objects: Objects, workspaces: LocalWorkspaces
) -> None:
    blob = objects.put("blob", b"/etc")
    inner = objects.tree(("100644", b"x", blob))
    tree = objects.tree(("120000", b"d", blob), ("40000", b"d", inner))
    with pytest.raises(WorkspaceError):
        await workspaces.unpack(TASK, [TreeId(tree)], objects.pack(blob, inner, tree))


async def test_a_submodule_is_refused(objects: Objects, workspaces: LocalWorkspaces) -> None:
    tree = objects.tree(("160000", b"d", "a" * 40))
    with pytest.raises(WorkspaceError):
        await workspaces.unpack(TASK, [TreeId(tree)], objects.pack(tree))


async def test_a_few_trees_that_stand_for_billions_of_files_are_refused(
    objects: Objects, workspaces: LocalWorkspaces
) -> None:
    """A kilobyte must not take the memory of the machine."""
    oids = [objects.put("blob", b"x")]
    mode = "100644"
    for _ in range(9):
        oids.append(objects.tree(*((mode, b"%d" % n, oids[-1]) for n in range(10))))
        mode = "40000"
    with pytest.raises(WorkspaceError, match="paths of more than"):
        await workspaces.unpack(TASK, [TreeId(oids[-1])], objects.pack(*oids))
