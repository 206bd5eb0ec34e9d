"""A working tree becomes an archive and a working tree again."""

import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from aios import code
from aios.errors import InvalidArgument


def tree(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def names(root: Path) -> list[str]:
    return [str(path) for path in code.find(root).files]


def test_the_same_tree_is_the_same_bytes_whenever_and_wherever_it_is_packed(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", train_dot_py="print(1)", lib__a_dot_py="a", lib__b_dot_py="b")
    two = tree(tmp_path / "two", lib__b_dot_py="b", lib__a_dot_py="a", train_dot_py="print(1)")
    os.utime(two / "train.py", (1, 1))
    for root in (one, two):
        code.pack(root, tmp_path / f"{root.name}.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    (two / "train.py").chmod(0o755)
    code.pack(two, tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() != (tmp_path / "two.tar").read_bytes()


def test_what_is_packed_comes_out_again_with_its_run_bit(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", train_dot_sh="#!/bin/sh", deep__down__x="x" * 100_000, empty="")
    (root / "train.sh").chmod(0o755)
    code.pack(root, tmp_path / "code.tar")
    code.unpack(tmp_path / "code.tar", tmp_path / "out")
    assert {path: (tmp_path / "out" / path).read_text() for path in names(root)} == {
        path: (root / path).read_text() for path in names(root)
    }
    assert (tmp_path / "out" / "train.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out" / "empty").stat().st_mode & 0o777 == 0o644


def test_ignore_files_are_read_as_git_reads_them_and_ours_decides_last(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        _dot_gitignore="*.log\n/data/\nbuild\n!keep.log\n",
        _dot_aiosignore="notes/*\n!notes/needed.txt\n",
        a_dot_py="",
        b_dot_log="",
        keep_dot_log="",
        data__x="",
        sub__data__x="",
        build__x="",
        notes__other_dot_txt="",
        notes__needed_dot_txt="",
        sub___dot_gitignore="*.tmp\n",
        sub__x_dot_tmp="",
        x_dot_tmp="",
        _dot_git__config="",
        __pycache____x_dot_pyc="",
    )
    (root / "__pycache__").mkdir(exist_ok=True)
    (root / "__pycache__" / "x.pyc").touch()
    assert [name for name in names(root) if not name.endswith("ignore") and "pycache" not in name] == [
        "a.py",
        "keep.log",
        "notes/needed.txt",
        "sub/data/x",
        "x.tmp",
    ]
    assert "__pycache__/x.pyc" not in names(root)


def test_only_regular_files_are_packed_and_the_others_are_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", a_dot_py="")
    (root / "link.py").symlink_to("a.py")
    (root / "folder").symlink_to("/etc")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "s"))
    found = code.find(root)
    assert [str(path) for path in found.files] == ["a.py"]
    assert [str(path) for path in found.skipped] == ["folder", "link.py", "pipe", "s"]


def test_a_tree_that_is_data_is_refused_with_what_weighs_most(tmp_path: Path) -> None:
    tree(tmp_path, train_dot_py="")
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(code.BYTES_MAX + 1)
    with pytest.raises(InvalidArgument, match=r"weights.bin \(100 MiB\)"):
        code.pack(tmp_path, tmp_path / "code.tar")


@pytest.mark.parametrize(
    "what", ["absolute", "upwards", "link", "hard link", "device", "twice", "cut", "no tar"]
)
def test_an_archive_that_leaves_its_folder_or_holds_no_plain_files_is_refused(
    tmp_path: Path, what: str
) -> None:
    bad = {
        "absolute": [tarfile.TarInfo("/etc/x")],
        "upwards": [tarfile.TarInfo("a/../../x")],
        "link": [tarfile.TarInfo("x")],
        "hard link": [tarfile.TarInfo("x")],
        "device": [tarfile.TarInfo("x")],
        "twice": [tarfile.TarInfo("x"), tarfile.TarInfo("x")],
    }.get(what, [tarfile.TarInfo("x")])
    kinds = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    archive = tmp_path / "code.tar"
    with tarfile.open(archive, "w") as file:
        for member in bad:
            member.type = kinds.get(what, tarfile.REGTYPE)
            member.linkname = "/etc/passwd" if what in ("link", "hard link") else ""
            member.size = 2000 if what == "cut" else 0
            file.addfile(member, io.BytesIO(b"x" * 2000))
    if what == "cut":
        archive.write_bytes(archive.read_bytes()[:1500])
    if what == "no tar":
        archive.write_bytes(b"no tar")
    with pytest.raises(code.BadArchive):
        code.unpack(archive, tmp_path / "out" / "deep")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "out" / "x").exists()


def test_a_commit_is_sent_as_it_was_and_only_what_lies_below_the_folder(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", train_dot_py="print(1)", lib__a_dot_py="a", lib__deep__b_dot_py="b")
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"], ["tag", "v1"]):
        subprocess.run([*git, *arguments], check=True)
    (root / "lib" / "a.py").write_text("changed")
    (root / "lib" / "new.py").touch()
    code.export(root / "lib", "v1", tmp_path / "out")
    assert names(tmp_path / "out") == ["a.py", "deep/b.py"]
    assert (tmp_path / "out" / "a.py").read_text() == "a"
    for ref in ("no-such", "--output=/tmp/x"):
        with pytest.raises(InvalidArgument, match="cannot be read"):
            code.export(root, ref, tmp_path / "other")
