"""The order of records, how it is resumed, and what is noticed on the way."""

import hashlib
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import DataLoss, FailedPrecondition, InvalidArgument
from aios.train import data
from aios.train.order import Order, key, permute
from aios.train.shards import Mapped, Shard, ShardCache, file_digest, write_shards

ROWS = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    columns: dict[str, Any] = {
        "image": np.arange(ROWS * 6, dtype=np.uint8).reshape(ROWS, 2, 3),
        "label": np.arange(ROWS, dtype=np.int64),
    }
    write_shards(tmp_path / "shards", columns, shard_bytes=1000)
    return tmp_path / "shards"


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_loses_nothing_and_doubles_nothing(size: int, secret: int) -> None:
    found = permute(np.arange(size, dtype=np.int64), size, secret)
    assert np.array_equal(np.sort(found), np.arange(size))


def test_the_order_never_changes() -> None:
    # A checkpoint of an earlier release goes on in the order that it began in.
    expected = [7, 9, 1, 2, 3, 4, 6, 0, 5, 8]
    assert permute(np.arange(10, dtype=np.int64), 10, key(7, 0, 0, 0)).tolist() == expected


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_holds_every_record_once(rows: list[int], block: int, epoch: int) -> None:
    order = Order(rows, seed=3, block_shards=block)
    shards, within = order.locate(epoch, np.arange(len(order), dtype=np.int64))
    assert sorted(zip(shards.tolist(), within.tolist(), strict=True)) == [
        (shard, row) for shard, count in enumerate(rows) for row in range(count)
    ]


def test_epochs_and_seeds_differ_and_records_are_spread() -> None:
    positions = np.arange(20_000, dtype=np.int64)
    starts = np.arange(0, 20_000, 100)

    def ids(seed: int, epoch: int) -> Any:
        shards, rows = Order([100] * 200, seed, block_shards=200).locate(epoch, positions)
        return starts[shards] + rows

    first = ids(1, 0)
    assert not np.array_equal(first, ids(1, 1))
    assert not np.array_equal(first, ids(2, 0))
    assert abs(np.corrcoef(positions, first)[0, 1]) < 0.05
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05


def test_without_shuffling_records_come_as_they_lie() -> None:
    shards, rows = Order([3, 1, 2], seed=1, shuffle=False, block_shards=2).locate(4, np.arange(6))
    assert list(zip(shards.tolist(), rows.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (2, 0),
        (2, 1),
    ]


def test_what_is_read_is_what_was_written(folder: Path) -> None:
    records = data.open_folder(folder, seed=1)
    batches = list(records.batches(100))

    assert len(records) == ROWS
    labels = np.concatenate([batch["label"] for batch in batches])
    images = np.concatenate([batch["image"] for batch in batches])
    assert sorted(labels.tolist()) == list(range(ROWS))
    assert labels.tolist() != list(range(ROWS))
    assert np.array_equal(images, np.arange(ROWS * 6, dtype=np.uint8).reshape(ROWS, 2, 3)[labels])
    numbers = np.concatenate(list(records.positions(100)))
    assert np.array_equal(numbers, labels)


def test_a_run_that_is_cut_off_reads_on_with_any_number_of_processes(folder: Path) -> None:
    def consumed(plan: list[tuple[int, int]]) -> str:
        """Each step of the plan reads some batches with a world size, reads further ahead, and dies."""
        digest, state = hashlib.sha256(), None
        for world, steps in plan:
            records = data.open_folder(folder, seed=5)
            if state is not None:
                records.restore(state)
            ranks = [records.batches(24, rank, world) for rank in range(world)]
            for _ in range(steps):
                parts = [next(rank, None) for rank in ranks]
                if parts[0] is None:
                    break
                digest.update(np.concatenate([part["label"] for part in parts if part is not None]).tobytes())
                records.commit(24)
            state = records.state()
            for rank in ranks:
                next(rank, None)  # read ahead, never committed
            records.close()
        return digest.hexdigest()

    whole = consumed([(1, 1000)])
    generator = random.Random(1)
    for _ in range(5):
        steps = [generator.randrange(12) for _ in range(3)]
        assert consumed([(1, steps[0]), (2, steps[1]), (1, steps[2]), (3, 1000)]) == whole


def test_a_checkpoint_of_other_data_is_refused(folder: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "other", {"x": np.arange(3)})
    state = data.open_folder(tmp_path / "other", seed=1).state()
    for other in (state, data.open_folder(folder, seed=2).state()):
        with pytest.raises(FailedPrecondition, match="has read manifest"):
            data.open_folder(folder, seed=1).restore(other)


def test_the_last_batch_is_left_out_or_short(folder: Path) -> None:
    records = data.open_folder(folder, seed=1)
    assert sum(len(batch["label"]) for batch in records.batches(300)) == 900
    shares = [list(records.batches(300, rank, 3, drop_last=False)) for rank in range(3)]
    assert [[len(batch["label"]) for batch in share] for share in shares] == [
        [100, 100, 100, length] for length in (33, 33, 34)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_tensors_in_the_same_order(folder: Path, workers: int) -> None:
    records = data.open_folder(folder, seed=1)
    expected = [list(batch["label"]) for batch in records.batches(96)]
    found = [batch["label"].tolist() for batch in records.loader(96, workers=workers)]
    assert found == expected


def test_a_flipped_bit_in_a_shard_is_noticed(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    list(data.open_folder(folder, seed=1, cache=cache).batches(100))
    victim = sorted(cache.glob("*.arrow"))[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)

    with pytest.raises(DataLoss, match="SHA-256"):
        list(data.open_folder(folder, seed=1, cache=cache).batches(100))
    assert len(list(data.open_folder(folder, seed=1, cache=cache).batches(100))) == 10  # fetched again


def test_the_cache_makes_room_for_what_is_needed(folder: Path, tmp_path: Path) -> None:
    shards = data.open_folder(folder, seed=1)._shards
    fetched: list[str] = []

    def fetch(shard: Shard, target: Path) -> str:
        fetched.append(shard.path)
        target.write_bytes((folder / shard.path).read_bytes())
        return file_digest(target)

    size = shards[0].size_bytes
    cache = ShardCache(tmp_path / "cache", fetch, bytes_max=3 * size)
    for shard in shards[:5]:
        assert len(cache.get(shard)) == shard.rows
        cache.keep([shard])
    cache.get(shards[4])
    cache.keep([])

    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.arrow")) <= 3 * size
    assert len(fetched) == 5


def test_the_first_batch_of_a_billion_records_comes_at_once(tmp_path: Path) -> None:
    # 20,000 shards of 50,000 records that exist in the manifest alone, but for those that are read.
    columns = {"x": np.arange(50_000, dtype=np.int32)}
    [real] = write_shards(tmp_path / "real", columns, shard_bytes=1 << 30)
    sha256 = hashlib.sha256(real.read_bytes()).hexdigest()
    shards = [Shard(f"{number}", sha256, real.stat().st_size, 50_000) for number in range(20_000)]

    def fetch(shard: Shard, target: Path) -> str:
        target.hardlink_to(real)
        return sha256

    cache = ShardCache(tmp_path / "cache", fetch)

    began = time.monotonic()
    records = data.Records("m", shards, cache, seed=1)
    records.restore({"manifest": "m", "seed": 1, "epoch": 3, "samples_committed": 777_777_777})
    batch = next(records.batches(256))

    assert len(records) == 10**9
    assert len(batch["x"]) == 256
    assert time.monotonic() - began < 1.0


def test_text_and_missing_values_come_as_python_objects(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b", None], "size": pa.array([1, None, 3])})
    with pa.OSFile(str(tmp_path / "0.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    mapped = Mapped(tmp_path / "0.arrow")
    assert mapped.take("text", np.array([2, 0])) == [None, "a"]
    assert mapped.take("size", np.array([1, 2])) == [None, 3]


def test_a_folder_without_shards_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="write_shards"):
        data.open_folder(tmp_path, seed=1)
    with pytest.raises(InvalidArgument, match="one length"):
        write_shards(tmp_path, {"a": np.arange(2), "b": np.arange(3)})
