from __future__ import annotations

import difflib
import random
import subprocess

import pytest

from agent_runtime_tools import _patching
from agent_runtime_tools._contents import Staged
from tests.tools.conftest import Workbench

pytestmark = pytest.mark.anyio

NUMBERS = "".join(f"{n}\n" for n in range(1, 31))


async def test_a_patch_of_git_over_every_kind_of_change_gives_what_git_had(
    repo: Workbench,
) -> None:
    """Oracle: git itself wrote the patch."""
    repo.write("changed.py", NUMBERS)
    repo.write("crlf.txt", "a\r\nb\r\nc\r\n")
    repo.write("no_end", "one\ntwo")
    repo.write("gone", "bye\n")
    repo.write("empty_gone", "")
    repo.write("old name", NUMBERS)
    repo.write("run.sh", "#!/bin/sh\n")
    repo.write("marked", "\ufeffa\nb\n")
    repo.write('quo"te\u00e9', "x\n")
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "before")
    repo.write("changed.py", NUMBERS.replace("5\n", "five\n").replace("25\n", ""))
    repo.write("crlf.txt", "a\r\nB\r\nc\r\n")
    repo.write("no_end", "one\nTWO\n")
    (repo.workspace / "gone").unlink()
    (repo.workspace / "empty_gone").unlink()
    (repo.workspace / "old name").rename(repo.workspace / "new name")
    repo.write("new name", NUMBERS.replace("7\n", "seven\n"))
    (repo.workspace / "run.sh").chmod(0o755)
    repo.write("marked", "\ufeffA\nb\n")
    repo.write('quo"te\u00e9', "y\n")
    repo.write("deep/new", "hello\nworld")
    repo.write("deep/empty", "")
    repo.write("deep/tool", "#!/bin/sh\n").chmod(0o755)
    repo.git("add", "-A")
    patch = repo.git("diff", "--cached", "-M")
    wanted = repo.git("write-tree")
    repo.git("reset", "-q", "--hard")
    result = await repo("apply_patch", patch=patch)
    assert result.ok, result.output
    assert "renamed old name to new name" in result.output
    repo.git("add", "-A")
    assert repo.git("write-tree") == wanted


@pytest.mark.parametrize("seed", range(40))
async def test_random_patches_give_what_diff_started_from(use: Workbench, seed: int) -> None:
    chance = random.Random(seed)
    before = [f"{chance.choice('abc')}\n" for _ in range(chance.randrange(40))]
    after = [line for line in before if chance.random() > 0.15]
    for _ in range(chance.randrange(4)):
        after.insert(chance.randrange(len(after) + 1), chance.choice(["new\n", "a\n"]))
    use.write("f", "".join(before))
    patch = "".join(difflib.unified_diff(before, after, "a/f", "b/f", n=chance.randrange(4)))
    if patch:
        assert (await use("apply_patch", patch=patch)).ok
    assert use.read("f").decode() == "".join(after)


async def test_a_hunk_that_has_moved_is_found_nearest_first(use: Workbench) -> None:
    patch = "--- a/f\n+++ b/f\n@@ -2,3 +2,3 @@\n x\n-y\n+Y\n z\n"
    use.write("f", "1\n2\n3\n4\n5\n6\nx\ny\nz\n7\n8\n9\n10\n11\n12\n13\n14\nx\ny\nz\n")
    assert (await use("apply_patch", patch=patch)).ok
    assert use.read("f").decode().splitlines().index("Y") == 7
    both = subprocess.run(
        ["git", "apply", "--check", "-"], input=patch.encode(), cwd=use.workspace, check=False
    )
    assert both.returncode == 0  # git still finds the other one


async def test_context_must_match_exactly_and_the_error_says_where_it_does_not(
    use: Workbench,
) -> None:
    use.write("f", "a\n  b\nc\n")
    patch = "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
    result = await use("apply_patch", patch=patch)
    assert result.kind == "refused"
    assert result.output == "hunk 1 of 'f' (line 1) does not match: line 2 is '  b\\n', not 'b\\n'"


async def test_of_several_files_all_change_or_none(use: Workbench) -> None:
    use.write("a", "1\n")
    use.write("b", "1\n")
    patch = (
        "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-1\n+2\n"
        "--- /dev/null\n+++ b/new/c\n@@ -0,0 +1 @@\n+c\n"
        "--- a/b\n+++ b/b\n@@ -1 +1 @@\n-other\n+2\n"
    )
    result = await use("apply_patch", patch=patch)
    assert result.kind == "refused" and "hunk 1 of 'b'" in result.output
    assert (use.listing(), use.read("a")) == (["a", "b"], b"1\n")


async def test_what_was_done_is_undone_if_the_disk_fails_in_the_middle(
    use: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    use.write("a", "1\n").chmod(0o755)
    use.write("z", "1\n")
    real, calls = Staged.replace, 0

    def fail_at_second(staged: Staged) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        real(staged)

    monkeypatch.setattr(Staged, "replace", fail_at_second)
    patch = (
        "--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+n\n"
        "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-1\n+2\n"
        "--- a/z\n+++ b/z\n@@ -1 +1 @@\n-1\n+2\n"
    )
    result = await use("apply_patch", patch=patch)
    assert (result.ok, result.kind) == (False, "failed")
    assert use.listing() == ["a", "z"]
    assert (use.read("a"), use.read("z")) == (b"1\n", b"1\n")
    assert (use.workspace / "a").stat().st_mode & 0o777 == 0o755


async def test_one_file_may_be_touched_twice(use: Workbench) -> None:
    use.write("f", "1\n")
    patch = (
        "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-1\n+2\n"
        "diff --git a/f b/g\nrename from f\nrename to g\n--- a/f\n+++ b/g\n@@ -1 +1 @@\n-2\n+3\n"
    )
    assert (await use("apply_patch", patch=patch)).ok
    assert (use.listing(), use.read("g")) == (["g"], b"3\n")


async def test_a_patch_in_lf_fits_a_file_in_crlf(use: Workbench) -> None:
    use.write("f", "a\r\nb\r\n")
    assert (await use("apply_patch", patch="--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n a\n+x\n b\n")).ok
    assert use.read("f") == b"a\r\nx\r\nb\r\n"


async def test_blank_context_lines_may_have_lost_their_blank(use: Workbench) -> None:
    use.write("f", "a\n\nb\n")
    assert (await use("apply_patch", patch="--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n\n-b\n+c")).ok
    assert use.read("f") == b"a\n\nc\n"


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ("hello", "the patch names no file"),
        ("--- a/f\n+++ b/f\n@@\n-1\n+2\n", "must be '@@ -LINE,COUNT +LINE,COUNT @@'"),
        ("@@ -1 +1 @@\n-1\n+2\n", "below '--- a/FILE'"),
        ("--- a/f\n+++ b/f\n", "has no hunk"),
        ("--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n-1\n+2\n", "fewer lines"),
        ("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-1\n+2\n+3\n", "more lines"),
        ("--- a/no\n+++ b/no\n@@ -1 +1 @@\n-1\n+2\n", "'no' does not exist"),
        ("--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+x\n", "'f' already exists"),
        ("--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n", "holds more than the patch says"),
        ("--- /dev/null\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n", "both files are /dev/null"),
        ("--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-1\n+2\n", "outside the workspace"),
        ("--- /etc/passwd\n+++ /etc/passwd\n@@ -1 +1 @@\n-1\n+2\n", "relative to the workspace"),
        ("--- a/pipe\n+++ b/pipe\n@@ -1 +1 @@\n-1\n+2\n", "is a symbolic link, not a file"),
        ("--- a/.git/config\n+++ b/.git/config\n@@ -1 +1 @@\n-1\n+2\n", "does not exist"),
        ("--- /dev/null\n+++ b/.git/x\n@@ -0,0 +1 @@\n+x\n", "belongs to git"),
        ("diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+x\n",
         "symbolic links are not patched"),
        ("diff --git a/f b/f\nindex 1..2 100644\nGIT binary patch\nliteral 1\n", "binary patches"),
        ("diff --git a/f b/g\nrename from f\nrename to g2\n", "'g2' exists"),
    ],
)  # fmt: skip
async def test_a_wrong_patch_is_refused_with_its_reason_and_nothing_changes(
    use: Workbench, patch: str, says: str
) -> None:
    use.write("f", "1\nmore\n")
    use.write("g2", "x")
    (use.workspace / "pipe").symlink_to("f")
    before = use.listing()
    result = await use("apply_patch", patch=patch)
    assert result.kind == "refused"
    assert says in result.output
    assert (use.listing(), use.read("f")) == (before, b"1\nmore\n")


@pytest.mark.parametrize(
    "patch",
    [
        "--- a/tests/t.py\n+++ b/tests/t.py\n@@ -1 +1 @@\n-1\n+2\n",
        "--- a/tests/t.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n",
        "diff --git a/tests/t.py b/u.py\nrename from tests/t.py\nrename to u.py\n",
        "diff --git a/a.py b/tests/a.py\nrename from a.py\nrename to tests/a.py\n",
        "diff --git a/a.py b/tests/a.py\ncopy from a.py\ncopy to tests/a.py\n",
        "diff --git a/tests/t.py b/tests/t.py\nold mode 100644\nnew mode 100755\n",
    ],
)
async def test_protected_files_stay_and_so_does_everything_else_in_the_patch(
    use: Workbench, patch: str
) -> None:
    use.write("tests/t.py", "1\n")
    use.write("a.py", "1\n")
    use.protected = ("tests/**",)
    before = use.listing()
    other = "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+x\n"
    result = await use("apply_patch", patch=other + patch)
    assert result.kind == "refused"
    assert result.paths in (("tests/t.py",), ("tests/a.py",))
    assert use.listing() == before


async def test_a_patch_of_very_many_files_is_refused_before_descriptors_run_out(
    use: Workbench,
) -> None:
    count = _patching.FILES_MAX + 1
    patch = "".join(f"--- /dev/null\n+++ b/f{n}\n@@ -0,0 +1 @@\n+x\n" for n in range(count))
    assert "more than 400 files" in (await use("apply_patch", patch=patch)).output
    assert use.listing() == []


async def test_a_submodule_is_not_patched(use: Workbench) -> None:
    result = await use("apply_patch", patch="diff --git a/m b/m\nnew file mode 160000\n")
    assert "submodules are not patched" in result.output
