"""A version's files as a table behave as a dictionary of them does."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.trees.check import path_problems
from aios.trees.chunks import cut
from aios.trees.tree import Leaf, Part, Tree, TreeInvalid
from services.data.manifests import File, content_of

PATHS = st.text("abc/é", min_size=1, max_size=4).filter(
    lambda path: "//" not in path and path.strip("/") == path
)
FILES = st.dictionaries(PATHS, st.integers(0, 3), max_size=8)


def digest(number: int) -> str:
    return hashlib.sha256(bytes([number])).hexdigest()


def tree(files: dict[str, int]) -> Tree:
    return Tree.of(Leaf(path, digest(number), number) for path, number in files.items())


@given(FILES, FILES)
def test_changes_are_what_differs(before: dict[str, int], after: dict[str, int]) -> None:
    found = {each.path: (each.before, each.after) for each in tree(after).changes(tree(before))}
    expected = {
        path: tuple(
            None if number is None else (digest(number), number)
            for number in (before.get(path), after.get(path))
        )
        for path in {*before, *after}
        if before.get(path) != after.get(path)
    }
    assert found == expected


@given(FILES, FILES, st.sets(PATHS, max_size=3))
def test_replacing_is_updating(files: dict[str, int], new: dict[str, int], gone: set[str]) -> None:
    changes: dict[str, Leaf | None] = dict.fromkeys(gone)
    changes |= {path: Leaf(path, digest(number), number) for path, number in new.items()}
    kept = {path: number for path, number in files.items() if path not in changes} | new
    assert tree(files).replaced(changes).content == tree(kept).content


@given(FILES.filter(bool))
def test_what_is_encoded_reads_back_and_means_the_same_as_a_list(files: dict[str, int]) -> None:
    made = Tree.decode(tree(files).encode())
    assert [leaf.path for leaf in made.leaves()] == sorted(files, key=str.encode)
    listed = sorted(File(path, digest(number), number) for path, number in files.items())
    assert made.content == content_of(listed)
    assert made.blobs() == {digest(number) for number in files.values()}


def test_parts_and_records_read_back() -> None:
    leaf = Leaf("a", digest(1), 5, (Part(digest(2), 0, 2, digest(3)), Part(digest(2), 7, 3, "")), rows=9)
    [found] = Tree.decode(Tree.of([leaf]).encode()).leaves()
    assert found == leaf
    assert not path_problems(Tree.of([leaf]))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no table at all" * 10])
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(TreeInvalid):
        Tree.decode(data)


def test_a_value_that_is_missing_is_refused() -> None:
    whole = tree({"a": 1}).table
    for name in ("path", "sha256", "size_bytes"):
        lacking = whole.set_column(
            whole.schema.get_field_index(name), name, pa.array([None], whole[name].type)
        )
        with pytest.raises(TreeInvalid):
            Tree.decode(Tree(lacking).encode())


@given(st.binary(max_size=200))
def test_damaged_tables_are_refused_or_read(noise: bytes) -> None:
    whole = tree({"a": 1, "b": 2}).encode()
    for data in (noise, whole[:40] + noise + whole[40 + len(noise) :]):
        try:
            Tree.decode(data)
        except TreeInvalid:
            continue


def test_chunks_cover_the_file_and_follow_an_insertion(tmp_path: Path) -> None:
    file, data = (
        tmp_path / "f",
        b"".join(hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(20_000)),
    )
    file.write_bytes(data)
    before = list(cut(file))
    file.write_bytes(data[:100_000] + b"new" + data[100_000:])
    after = list(cut(file))

    assert [chunk.offset for chunk in before] == [0, *(chunk.offset + chunk.size for chunk in before[:-1])]
    assert sum(chunk.size for chunk in before) == len(data)
    assert len({chunk.sha256 for chunk in after} - {chunk.sha256 for chunk in before}) <= 2
