"""A reader killed at random moments, 100 times: what was consumed, in order, equals the uninterrupted run.

Each round is killed twice to four times and goes on with another number of processes: 1, 2, 1, 3. What is consumed is
written as a training loop commits it: the records of a step, then the state. Then the first batch of 10^9 records.
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import numpy as np

from aios.train import data
from aios.train.shards import Shard, ShardCache, write_shards
from bench import fashion
from bench.report import Report

KILLS = 100
WORLDS = (1, 2, 1, 3)
BATCH = 240  # divides by every number of processes
STEP_SECONDS = 0.001  # of training
SHARD_BYTES = 1 << 20
RECORDS_MAX = 1_000_000_000


def consume(shards: Path, folder: Path, world: int) -> None:
    """Train on all that is left: ids to a file, then the state, step by step."""
    records = data.open_folder(shards, seed=7)
    state = folder / "state.json"
    if state.exists():
        records.restore(json.loads(state.read_text()))
    with (folder / "ids").open("r+b" if (folder / "ids").exists() else "w+b") as out:
        out.seek(records.state()["samples_committed"] * 8)
        for parts in zip(*(records.batches(BATCH, rank, world) for rank in range(world)), strict=True):
            ids = np.concatenate([part["id"] for part in parts])
            time.sleep(STEP_SECONDS)
            out.write(ids.tobytes())
            out.flush()
            records.commit(BATCH)
            fresh = folder / "state.new"
            fresh.write_text(json.dumps(records.state()))
            fresh.rename(state)
        out.truncate()


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "ids").read_bytes()).hexdigest()


def interrupted(shards: Path, folder: Path, generator: random.Random, seconds: float) -> int:
    """One round. Returns how often it was killed."""
    fork, kills = multiprocessing.get_context("fork"), 0
    folder.mkdir()
    for world in WORLDS:
        process = fork.Process(target=consume, args=(shards, folder, world))
        process.start()
        if world != WORLDS[-1]:
            process.join(generator.uniform(0, seconds / 2))
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
        process.join()
    return kills


def first_batch(folder: Path) -> float:
    """Seconds to the first batch in the middle of an epoch of a billion records, most of them in the manifest alone."""
    rows = 50_000
    [real] = write_shards(folder / "real", {"x": np.arange(rows, dtype=np.int32)}, 1 << 30)
    content = real.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()

    def fetch(shard: Shard, target: Path) -> str:
        target.write_bytes(content)
        return sha256

    began = time.perf_counter()
    shards = [Shard(str(number), sha256, len(content), rows) for number in range(RECORDS_MAX // rows)]
    records = data.Records("m", shards, ShardCache(folder / "cache", fetch), seed=1)
    records.restore({"manifest": "m", "seed": 1, "epoch": 3, "samples_committed": 777_777_777})
    next(records.batches(256))
    return time.perf_counter() - began


def main() -> None:
    report = Report("data_resume")
    columns, report.figures["data"] = fashion.arrays()
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as home:
        folder = Path(home)
        ids = np.arange(len(columns["label"]), dtype=np.int64)
        write_shards(folder / "shards", {"id": ids, **columns}, SHARD_BYTES)
        (folder / "whole").mkdir()
        began = time.perf_counter()
        consume(folder / "shards", folder / "whole", 1)
        seconds = time.perf_counter() - began
        whole, kills, equal, rounds = digest(folder / "whole"), 0, 0, 0
        generator = random.Random(1)
        while kills < KILLS:
            kills += interrupted(folder / "shards", folder / f"round{rounds}", generator, seconds)
            equal += digest(folder / f"round{rounds}") == whole
            rounds += 1
            report.say(f"{kills} kills, {equal} of {rounds} rounds equal")
        report.figure("kills", kills)
        report.bar("rounds_equal", equal / rounds, at_least=1.0)
        report.bar("first_batch_of_1e9_seconds", first_batch(folder), 1.0)
    report.finish()


if __name__ == "__main__":
    main()
