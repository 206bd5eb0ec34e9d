"""Parts of a dataset: which files are one, and what is said where none or several are."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from aios.errors import InvalidArgument
from aios.train.splits import open_split

TABLE = pa.table({"x": [1, 2]})


def written(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            parquet.write_table(TABLE, path)
        elif path.suffix == ".csv":
            path.write_text("x\n1\n2\n")
        else:
            with pa.ipc.new_file(str(path), TABLE.schema) as out:
                out.write_table(TABLE)
    return folder


def refused(files: Path, split: str) -> str:
    with pytest.raises(InvalidArgument) as error:
        open_split(files, split, 0, files.parent / "scratch")
    return str(error.value.fields["split"])


@pytest.mark.parametrize("name", ["train/part-0.arrow", "train.arrow", "train.parquet", "train.csv"])
def test_a_part_is_a_folder_of_shards_or_one_file(tmp_path: Path, name: str) -> None:
    files = written(tmp_path / "files", name, "test.csv")
    assert len(open_split(files, "train", 0, tmp_path / "scratch")) == 2


def test_a_folder_of_tables_is_no_part_and_is_not_offered_as_one(tmp_path: Path) -> None:
    files = written(tmp_path / "files", "train/part-0.parquet", "test.csv")
    assert (
        refused(files, "train")
        == "a folder must hold .arrow shards, and 'train' has none; the dataset has test"
    )
    assert refused(files, "valid") == "no part 'valid' can be read; the dataset has test"


def test_of_two_files_of_one_name_neither_is_chosen(tmp_path: Path) -> None:
    files = written(tmp_path / "files", "train.csv", "train.parquet", "test/0.arrow")
    assert (
        refused(files, "train")
        == "more than one file is 'train': train.parquet, train.csv; the dataset has test"
    )


def test_a_dataset_without_parts_says_what_one_would_be(tmp_path: Path) -> None:
    files = written(tmp_path / "files", "train/part-0.parquet")
    assert refused(files, "").endswith("has no folder of .arrow shards, and no .arrow, .parquet or .csv file")
