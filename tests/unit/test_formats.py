"""Every format becomes the same shards; whatever else is in a file is told, and nothing is written beside them."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios.errors import InvalidArgument
from aios.formats import FORMATS, import_shards
from aios.train.shards import Mapped

ROWS = [{"id": number, "text": f"row {number}"} for number in range(100)]
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


def tar(path: Path, files: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as out:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            out.addfile(member, io.BytesIO(content))
    return path


def idx(path: Path, kind: int, sizes: list[int], content: bytes) -> Path:
    header = bytes([0, 0, kind, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as out:
        out.write(header + content)
    return path


def read(paths: list[Path]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for path in paths:
        found += pa.ipc.open_file(str(path)).read_all().to_pylist()
    return found


def write_csv(path: Path) -> None:
    path.write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in ROWS))


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def write_arrow(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [("t.csv", write_csv), ("t.jsonl", write_jsonl), ("t.parquet", write_parquet), ("t.arrow", write_arrow)],
)
def test_tables_become_shards(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    assert read(import_shards(tmp_path / name, tmp_path / "out")) == ROWS


def test_a_large_table_becomes_many_shards(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"x": np.random.default_rng(0).integers(0, 2**60, 200_000)}), tmp_path / "t.parquet"
    )
    made = import_shards(tmp_path / "t.parquet", tmp_path / "out", shard_bytes=400_000)
    assert len(made) == 4
    assert sum(len(Mapped(path)) for path in made) == 200_000


def test_a_folder_of_images_is_numbered_by_class(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(PNG + name.encode())
    rows = read(import_shards(tmp_path / "in", tmp_path / "out"))
    assert [(row["path"], row["label"]) for row in rows] == [
        ("cat/1.png", 0),
        ("cat/2.png", 0),
        ("dog/1.png", 1),
    ]
    assert rows[2]["image"] == PNG + b"dog/1.png"
    (tmp_path / "in" / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(InvalidArgument, match=r"notes\.txt"):
        import_shards(tmp_path / "in", tmp_path / "out")


def test_idx_files_become_arrays(tmp_path: Path) -> None:
    pixels = np.arange(3 * 4, dtype=np.uint8)
    idx(tmp_path / "train-images-idx3-ubyte.gz", 8, [3, 2, 2], pixels.tobytes())
    idx(tmp_path / "train-labels-idx1-ubyte.gz", 8, [3], bytes([7, 8, 9]))
    [made] = import_shards(tmp_path, tmp_path / "out")
    mapped = Mapped(made)
    image = mapped.take("image", np.array([1]))
    assert isinstance(image, np.ndarray)
    assert image.tolist() == [[[4, 5], [6, 7]]]
    assert list(mapped.take("label", np.arange(3))) == [7, 8, 9]


def test_samples_of_a_tar_are_rows(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("x/1.jpg", b"one"), ("x/1.cls", b"0"), ("x/2.jpg", b"two")])
    assert read(import_shards(tmp_path / "a.tar", tmp_path / "out")) == [
        {"__key__": "x/1", "cls": b"0", "jpg": b"one"},
        {"__key__": "x/2", "cls": None, "jpg": b"two"},
    ]


@pytest.mark.parametrize("name", ["../up.jpg", "/etc/passwd", "a/../../b.jpg"])
def test_a_member_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="leads out"):
        import_shards(tar(tmp_path / "a.tar", [(name, b"x")]), tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_only_regular_members_are_taken(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(InvalidArgument, match="regular"):
        import_shards(tar(tmp_path / "a.tar", [("a.jpg", b"")], kind), tmp_path / "out")


def test_a_bomb_is_noticed_before_it_is_unpacked(tmp_path: Path) -> None:
    plain = tar(tmp_path / "plain.tar", [("a.bin", bytes(64 << 20))])
    bomb = tmp_path / "bomb.tar"
    bomb.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(InvalidArgument, match="times its size"):
        import_shards(bomb, tmp_path / "out")


def test_a_wrong_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(InvalidArgument, match="Row #3"):
        import_shards(tmp_path / "t.csv", tmp_path / "out")
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(InvalidArgument, match="row 1"):
        import_shards(tmp_path / "t.jsonl", tmp_path / "out")


@pytest.mark.parametrize("format_", [name for name in FORMATS if name not in ("images", "idx")])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=400))
def test_whatever_a_file_holds_is_read_or_refused(tmp_path: Path, format_: str, content: bytes) -> None:
    source = tmp_path / "hostile"
    source.write_bytes(content)
    try:
        made = import_shards(source, tmp_path / "out", format_)
    except InvalidArgument as refused:
        assert "hostile" in refused.message or "holds no record" in refused.message  # noqa: PT017
    else:
        assert all(path.parent == tmp_path / "out" for path in made)
    assert {path.name for path in tmp_path.iterdir()} <= {"hostile", "out"}


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=60), cut=st.integers(0, 600))
def test_damaged_archives_and_idx_files_are_refused(tmp_path: Path, content: bytes, cut: int) -> None:
    whole = tar(tmp_path / "a.tar", [("1.jpg", content), ("2.jpg", content)]).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:cut] + content + whole[cut + len(content) :])
    folder = tmp_path / "idx"
    folder.mkdir(exist_ok=True)
    (folder / "t-images-idx3-ubyte").write_bytes(b"\0\0\x08\3" + content)
    (folder / "t-labels-idx1-ubyte").write_bytes(content)
    for source in (tmp_path / "a.tar", folder):
        try:
            import_shards(source, tmp_path / "out")
        except InvalidArgument as refused:
            assert str(tmp_path) in refused.message  # noqa: PT017
