"""A release in one file: the same bytes wherever it is built; its parent, under its digest."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.releases.file import digest_of, pack, parent_in, unpack, with_parent
from sluicegate.processors.releases.release import build, compile_release
from sluicegate.schemas.errors import Terminal
from sluicegate.streams.cli import app
from sluicegate.streams.control import releases
from typer.testing import CliRunner

from tests.driver import RELEASE, release_files

FILES = {"release.yaml": "name: x\nversion: '1'\n", "policies/a.cedar": "é\n"}
PARENT = "sha256:" + "ab" * 32
names = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=9)


def test_the_bytes_are_these() -> None:
    """On every machine and for ever: no compressor has a say in them."""
    assert (
        hashlib.sha256(pack(FILES)).hexdigest()
        == "fe5a4bdfe06f218c144b1e146923f07f2f2b30be4742f6c43250d9aca9e57818"
    )
    assert pack(dict(reversed(FILES.items()))) == pack(FILES)


@given(st.dictionaries(names.map("prompts/{}.md".format), st.text(st.characters(exclude_categories=["Cs"]))))
def test_there_and_back(files: dict[str, str]) -> None:
    assert unpack(pack(files)) == files
    assert zlib.decompress(pack(files)) == orjson.dumps(files, option=orjson.OPT_SORT_KEYS)


def test_a_release_over_several_blocks_and_one_of_before() -> None:
    long = {**FILES, "prompts/a.md": "long" * 100_000}
    assert unpack(pack(long)) == long
    assert unpack(zlib.compress(orjson.dumps(FILES))) == FILES, "as versions before wrote them"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"PK\3\4", pack(FILES)[:-1], pack(FILES) + b"x", zlib.compress(b"[]"), zlib.compress(b"no"),
        zlib.compress(b'{"release.yaml": 1}'), zlib.compress(b'{"contracts/../../evil.json": ""}'),
        zlib.compress(b'{"/etc/passwd": ""}'), zlib.compress(b'{"tests/a.yaml": ""}'),
        pytest.param(zlib.compress(bytes(100_000_000)), id="a bomb"),
    ],
)  # fmt: skip
def test_other_bytes_are_no_release(data: bytes) -> None:
    with pytest.raises(Terminal):
        unpack(data)


def test_a_changed_byte_is_seen() -> None:
    data = bytearray(pack(FILES))
    data[20] ^= 1
    with pytest.raises(Terminal):
        unpack(bytes(data))


# -- parents -------------------------------------------------------------------------------------------------------


def test_the_parent_is_under_the_digest() -> None:
    files = release_files()
    derived = with_parent(files, PARENT)
    assert compile_release(derived).parent == PARENT and compile_release(files).parent == ""
    assert digest_of(derived) != digest_of(files)
    assert with_parent(with_parent(derived, "sha256:" + "cd" * 32), PARENT) == derived, "one line, replaced"
    assert with_parent(derived, "") == files


def test_releases_of_before_keep_their_digest_and_stay_readable() -> None:
    """The example's digest as it was before there were parents; and a key `parent` that meant something else."""
    assert digest_of(release_files(extended=False)) == compile_release(release_files(extended=False)).digest
    files = release_files()
    own = {**files, "release.yaml": files["release.yaml"] + "parent: [the, other, team]\n"}
    assert compile_release(own, proven=True).parent == ""
    _, findings = build(own)
    [found] = [f for f in findings if f.rule == "parent"]
    assert found.severity == "error" and found.line > 1 and "sha256:" in found.sentence


@pytest.mark.parametrize("value", ["", None, 7, "sha256:ab", "SHA256:" + "ab" * 32, PARENT + "\n"])
def test_what_names_no_parent(value: object) -> None:
    assert parent_in(value) == ""


def test_a_manifest_without_lines_is_left_to_its_author() -> None:
    with pytest.raises(Terminal, match="write it there yourself"):
        with_parent({"release.yaml": "{name: x, version: '1'}"}, PARENT)


# -- the command ---------------------------------------------------------------------------------------------------


def run(*words: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, ["release", *words])
    assert found.exit_code == code, found.output + str(found.exception)
    return found.output + (str(found.exception) if code > 1 else "")


def test_built_twice_it_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run("build", str(RELEASE), "-o", str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert releases.read_release(tmp_path / "a") == releases.read_folder(RELEASE)
    run("build", str(RELEASE), "-o", str(tmp_path))
    [named] = tmp_path.glob("customer-desks-1-*.release")
    assert digest_of(releases.read_folder(RELEASE)).removeprefix("sha256:")[:12] in named.name
    assert "checks" in run("check", str(named))


def test_built_with_a_parent(tmp_path: Path) -> None:
    run("build", str(RELEASE), "-o", str(tmp_path / "a"), "--parent", PARENT)
    assert json.loads(run("show", str(tmp_path / "a"), "-o", "json"))["parent"] == PARENT


def test_a_release_that_does_not_check_is_not_built(tmp_path: Path) -> None:
    (tmp_path / "release.yaml").write_text("name: x\n")
    found = CliRunner().invoke(app, ["release", "build", str(tmp_path), "-o", str(tmp_path / "a")])
    assert isinstance(found.exception, Terminal) and "version" in str(found.exception)
    assert not (tmp_path / "a").exists()


def test_a_file_that_is_no_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    for command in (["check"], ["publish", "--dry-run"], ["diff", str(RELEASE)], ["show"]):
        found = CliRunner().invoke(app, ["release", *command, str(tmp_path / "a")])
        assert isinstance(found.exception, Terminal) and "release build" in str(found.exception)


def test_show_says_what_is_in_it() -> None:
    about = json.loads(run("show", str(RELEASE), "-o", "json"))
    assert about["tools"]["banking.send_money"] == {"class": "irreversible", "reached_by": "http"}
    assert about["policies"]["banking-read"] == "permit"
    assert about["files"]["release.yaml"]["bytes"] == len((RELEASE / "release.yaml").read_bytes())
    assert run("show", str(RELEASE), "--file", "release.yaml") == (RELEASE / "release.yaml").read_text(
        "utf-8"
    )
