"""What is read of a file: all of it or a part, as text, and never more than an answer holds."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from agent_runtime_mcp.filesystem import reading
from tests.mcp.filesystem.conftest import Files

TEN = "".join(f"line {number}\n" for number in range(1, 11))


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"head": 2}, "line 1\nline 2"),
        ({"tail": 2}, "line 9\nline 10"),
        ({"head": 99}, TEN[:-1]),
        ({"tail": 99}, TEN[:-1]),
        ({"head": 0}, TEN),
        ({"head": 2.0}, "line 1\nline 2"),
        ({"start": 3, "end": 4}, "line 3\nline 4\n"),
        ({"start": 10}, "line 10\n"),
        ({"end": 1}, "line 1\n"),
        ({"offset": 65}, "ne 10\n"),
    ],
)
def test_a_part_is_read(plain: Files, root: Path, part: dict[str, float], text: str) -> None:
    (root / "f").write_text(TEN)
    assert plain.call("read_text_file", path=f"{root}/f", **part) == text


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"head": 1, "tail": 1}, "Cannot specify both head and tail"),
        ({"head": 1, "start": 1}, "use only one of"),
        ({"head": -1}, "head must be a whole number"),
        ({"tail": 1.5}, "tail must be a whole number"),
        ({"head": True}, "head must be a whole number"),
        ({"start": 0}, "start must be a whole number"),
        ({"start": 3, "end": 2}, "lines count from 1"),
        ({"start": 11}, "has 10 lines"),
        ({"start": 99}, "has 10 lines; start is 99"),
        ({"offset": 72}, "71 bytes"),
    ],
)
def test_a_part_that_is_none_is_refused(
    plain: Files, root: Path, part: dict[str, float], why: str
) -> None:
    (root / "f").write_text(TEN)
    assert why in plain.refused("read_text_file", path=f"{root}/f", **part)


def test_a_long_file_is_read_to_its_end_in_pieces(
    plain: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece tells where it goes on; no character is cut in two, whatever its length."""
    monkeypatch.setattr(reading, "READ_BYTES_MAX", 1000)
    text = "".join(f"{'äö€😀'[number % 4] * (number % 7)}{number}\n" for number in range(900))
    text += "€" * 2000  # a line that no cut fits
    (root / "f").write_text(text)
    said = plain.answer("read_text_file", path=f"{root}/f")
    pieces = [said.structured]
    while "next_offset" in pieces[-1]:
        assert pieces[-1]["truncated"] and "read on with offset=" in pieces[-1]["note"]
        assert len(pieces[-1]["content"].encode()) <= 1000
        offset = pieces[-1]["next_offset"]
        pieces.append(plain.answer("read_text_file", path=f"{root}/f", offset=offset).structured)
    assert "".join(piece["content"] for piece in pieces) == text
    assert "start=" in pieces[0]["note"]
    lines = plain.answer("read_text_file", path=f"{root}/f", start=5).structured
    assert lines["truncated"] and lines["content"] in text
    assert lines["content"].split("\n")[0] == text.split("\n")[4]
    tail = plain.answer("read_text_file", path=f"{root}/f", tail=3)
    assert "only the last" in tail.content[1]["text"]


def test_lines_far_into_a_file_are_found(plain: Files, root: Path) -> None:
    """Beyond what is read at once."""
    (root / "f").write_text("".join(f"{number:09}\n" for number in range(100_000)))
    text = plain.call("read_text_file", path=f"{root}/f", start=99_999, end=100_000)
    assert text == "000099998\n000099999\n"
    assert plain.call("read_text_file", path=f"{root}/f", tail=1) == "000099999"
    assert plain.call("read_text_file", path=f"{root}/f", head=30_000).endswith("000029999")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (b"\xef\xbb\xbfmarked\r\n", "marked\r\n"),
        ("wide ä\n".encode("utf-16"), "wide ä\n"),
        ("wider ä\n".encode("utf-32"), "wider ä\n"),
        (b"caf\xe9\n", "caf\xe9\n"),
    ],
)
def test_bytes_become_text(plain: Files, root: Path, content: bytes, text: str) -> None:
    """Marks are not shown; what is no UTF-8 is shown byte by byte, and that is said."""
    (root / "f").write_bytes(content)
    assert plain.call("read_text_file", path=f"{root}/f") == text
    assert plain.call("read_text_file", path=f"{root}/f", head=5) == text.removesuffix("\n")
    assert plain.call("read_text_file", path=f"{root}/f", tail=5) == text.removesuffix("\n")
    said = plain.answer("read_text_file", path=f"{root}/f")
    assert (len(said.content) == 2) == (b"\xe9" in content)


def test_what_is_no_text_is_said_to_be_binary(plain: Files, root: Path) -> None:
    (root / "f.png").write_bytes(bytes(range(256)))
    for part in ({}, {"head": 1}, {"tail": 1}, {"start": 1}, {"offset": 1}):
        said = plain.refused("read_text_file", path=f"{root}/f.png", **part)
        assert "binary file of 256 bytes" in said and "read_media_file" in said
    (root / "odd").write_bytes(b"\xff\xfe\x00")
    assert "binary" in plain.refused("read_text_file", path=f"{root}/odd")


def test_media_come_in_base64_with_their_type(
    plain: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("f.png", "f.mp3", "f b.bin"):
        (root / name).write_bytes(b"\0\1")
    data = base64.b64encode(b"\0\1").decode()
    image = plain.answer("read_media_file", path=f"{root}/f.png")
    assert image.content == [{"type": "image", "data": data, "mimeType": "image/png"}]
    assert image.structured == {"content": image.content}
    assert plain.answer("read_media_file", path=f"{root}/f.mp3").content[0]["type"] == "audio"
    other = plain.answer("read_media_file", path=f"{root}/f b.bin").content[0]
    assert other["resource"]["uri"] == f"file://{root}/f%20b.bin"
    assert other["resource"]["blob"] == data
    monkeypatch.setattr(reading, "MEDIA_BYTES_MAX", 1)
    assert "at most 1" in plain.refused("read_media_file", path=f"{root}/f.png")


def test_several_files_are_read_though_one_fails(
    plain: Files, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").write_text("A")
    (root / "b").write_text("B")
    paths = [f"{root}/a", f"{root}/none", f"{root}/b"]
    first, none, last = plain.call("read_multiple_files", paths=paths).split("\n---\n")
    assert (first, last) == (f"{root}/a:\nA\n", f"{root}/b:\nB\n")
    assert none.startswith(f"{root}/none: Error - ENOENT")
    monkeypatch.setattr(reading, "TOGETHER_BYTES_MAX", 1)
    assert "ask for it alone" in plain.call("read_multiple_files", paths=paths).split("---")[2]
    assert "at least one" in plain.refused("read_multiple_files", paths=[])
    assert "list of strings" in plain.refused("read_multiple_files", paths="a")


def test_a_hash_is_told_where_it_is_asked_for(plain: Files, root: Path) -> None:
    (root / "f").write_text(TEN)
    expected = hashlib.sha256(TEN.encode()).hexdigest()
    said = plain.answer("read_text_file", path=f"{root}/f", head=1, hash=True)
    assert said.structured["sha256"] == expected and expected in said.content[1]["text"]
    assert f"sha256: {expected}" in plain.call("get_file_info", path=f"{root}/f")


def test_the_short_way_leaves_long_work_alone(plain: Files, root: Path) -> None:
    """It gives None and has done nothing: whoever waits on the same thread goes on."""
    (root / "f").write_text("x" * 300_000)
    now = plain.tools["read_text_file"].now
    assert now is not None
    assert now({"path": f"{root}/f"}, None) is None  # type: ignore[arg-type]
    assert plain.call("read_text_file", path=f"{root}/f") == "x" * 300_000
    write = plain.tools["write_file"].now
    assert write is not None
    assert write({"path": f"{root}/g", "content": "x" * 300_000}, None) is None  # type: ignore[arg-type]
    assert not (root / "g").exists()
