"""What a manifest takes, and that its name follows from its content."""

import hashlib
import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import DataLoss, InvalidArgument
from services.data.manifests import MANIFEST_BYTES_MAX, File, Kind, Manifest, path_problem

SEGMENTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="/\\:"), min_size=1, max_size=20
)
PATHS = st.lists(SEGMENTS.filter(lambda text: text not in (".", "..")), min_size=1, max_size=4).map("/".join)
FILES = st.lists(
    st.builds(
        File, PATHS, st.binary(max_size=3).map(lambda b: hashlib.sha256(b).hexdigest()), st.integers(0, 10)
    ),
    min_size=1,
    unique_by=lambda file: file.path.split("/")[0],
)


def one(path: str = "a", sha256: str = "0" * 64, size_bytes: int = 1) -> File:
    return File(path, sha256, size_bytes)


@given(FILES, st.randoms())
def test_the_order_in_which_files_are_sent_does_not_matter(files: list[File], random: object) -> None:
    shuffled = list(files)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Manifest.of(Kind.DATASET, files, "f").sha256 == Manifest.of(Kind.DATASET, shuffled, "f").sha256


@given(FILES)
def test_what_is_stored_reads_back_as_it_was(files: list[File]) -> None:
    made = Manifest.of(Kind.MODEL, files, "f")
    assert Manifest.decode(made.encoded, made.sha256) == made


@given(FILES)
def test_another_content_or_kind_has_another_name(files: list[File]) -> None:
    made = Manifest.of(Kind.DATASET, files, "f")
    larger = [File(files[0].path, files[0].sha256, files[0].size_bytes + 1), *files[1:]]
    assert made.sha256 != Manifest.of(Kind.DATASET, larger, "f").sha256
    assert made.sha256 != Manifest.of(Kind.MODEL, files, "f").sha256


def test_the_canonical_form_never_changes() -> None:
    made = Manifest.of(Kind.DATASET, [one("b/é", "2" * 64, 2), one("a", "1" * 64, 1)], "f")
    assert json.loads(made.encoded)["files"][1]["path"] == "b/é"
    assert made.sha256 == "f0272a3ae3ea1bdb60f09d087e5d5105f56feda6e78586cb93ed8069bbabe462"
    assert made.version_id == made.sha256[:16]


def test_damaged_bytes_are_noticed() -> None:
    made = Manifest.of(Kind.DATASET, [one()], "f")
    with pytest.raises(DataLoss):
        Manifest.decode(made.encoded.replace(b'"a"', b'"b"'), made.sha256)


@given(st.text(max_size=30))
def test_a_path_that_passes_stays_below_its_folder(path: str) -> None:
    if path_problem(path) is None:
        pure = PurePosixPath(path)
        assert not pure.is_absolute()
        assert ".." not in pure.parts
        assert str(pure) == path
        assert "\\" not in path
        assert "\0" not in path


@given(PATHS)
def test_ordinary_paths_pass_in_any_script(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize("path", ["می‌خواهم.txt", "👩‍🔬.png", "a b/ç (1).npy"])
def test_joiners_and_spaces_are_part_of_names(path: str) -> None:
    assert path_problem(path) is None


def test_every_wrong_file_is_named_with_what_to_change() -> None:
    with pytest.raises(InvalidArgument) as refused:
        Manifest.of(Kind.DATASET, [one("/x"), one("ok", "G" * 64), one("fine", size_bytes=-1)], "v.files")
    assert set(refused.value.fields) == {"v.files[0].path", "v.files[1].sha256", "v.files[2].size_bytes"}


def test_a_file_cannot_be_a_folder_too() -> None:
    with pytest.raises(InvalidArgument) as refused:
        Manifest.of(Kind.DATASET, [one("a/b/c"), one("a/b"), one("a/bc")], "f")
    assert set(refused.value.fields) == {"f[0].path"}


def test_more_files_than_a_message_holds_are_refused() -> None:
    count = MANIFEST_BYTES_MAX // 100
    with pytest.raises(InvalidArgument) as refused:
        Manifest.of(Kind.DATASET, (one(f"{number}") for number in range(count)), "f")
    assert "pack small ones together" in refused.value.message
