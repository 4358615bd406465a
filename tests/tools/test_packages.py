"""Packages of the `python` tool, with the real pip and an index that is a directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_runtime_tools import _packages
from tests.sandboxes.web import make_wheel
from tests.tools.conftest import Workbench

pytestmark = pytest.mark.anyio


@pytest.fixture
def index(use: Workbench, tmp_path: Path) -> Path:
    """Where pip looks, and a HOME to install into."""
    links, home = tmp_path / "links", tmp_path / "home"
    links.mkdir()
    home.mkdir()
    make_wheel(links / "example_egress-1.0-py3-none-any.whl", "WORD = 'from a package'\n")
    use.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links), "UV_NO_INDEX": "1"}
    use.env |= {"UV_FIND_LINKS": str(links), "PIP_CONFIG_FILE": "/dev/null"}
    use.home, use.seconds = str(home), 60.0
    return links


@pytest.mark.long
async def test_packages_are_installed_below_home_once_and_stay_importable(
    use: Workbench, index: Path, tmp_path: Path
) -> None:
    """A live interpreter keeps its variables; the workspace has nothing of it."""
    await use("python", code="kept = 1")
    code = "import example_egress; (example_egress.WORD, kept)"
    result = await use("python", code=code, packages=["example_egress==1.0"])
    assert result.output == "('from a package', 1)"
    (place,) = (tmp_path / "home/.local/share/agent-runtime/packages").iterdir()
    assert (place / "example_egress.py").is_file()
    assert use.listing() == []
    (index / "example_egress-1.0-py3-none-any.whl").unlink()
    again = await use("python", code="example_egress.WORD", packages=["example_egress==1.0"])
    assert again.ok, again.output


@pytest.mark.long
async def test_what_cannot_be_installed_is_a_result_that_names_the_line_that_would_help(
    use: Workbench, index: Path, tmp_path: Path
) -> None:
    result = await use("python", code="print('not run')", packages=["no-such-thing"])
    assert (result.ok, result.kind) == (False, "failed")
    assert "no-such-thing could not be installed" in result.output
    assert (
        "policy: {network: restricted, egress: [pypi.org, files.pythonhosted.org]}" in result.output
    )
    assert "not run" not in result.output
    use.env |= {"PIP_INDEX_URL": "https://me:secret@index.corp:8443/simple"}
    result = await use("python", code="1", packages=["no-such-thing"])
    assert "egress: ['index.corp:8443']" in result.output


@pytest.mark.parametrize(
    "package",
    ["-r/etc/passwd", "--index-url=http://evil", ".", "./x", "/x", "git+https://a/b", "a b",
     "a\n-r x", "", "http://a/b.whl", "a==1\n--pre"],
)  # fmt: skip
async def test_only_requirements_are_packages(use: Workbench, index: Path, package: str) -> None:
    """An option of pip would read files and choose indexes."""
    result = await use("python", code="1", packages=[package])
    assert result.kind in ("refused", "bad_input")


@pytest.mark.parametrize(
    "package", ["a", "A-b_c.d", "a[b,c]>=1,<2", "a ~= 1.0", "a@https://x/y.whl", "a; os_name=='x'"]
)
def test_requirements_as_people_write_them(package: str) -> None:
    _packages.check([package])


async def test_without_a_home_there_is_no_place_for_packages(use: Workbench) -> None:
    result = await use("python", code="1", packages=["a"])
    assert (result.kind, "the task has none" in result.output) == ("refused", True)
