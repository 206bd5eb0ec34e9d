"""Shuffled Fashion-MNIST streamed from the object store of a running stack, against LitData on a local disk.

Samples per second of processor time, and of time for the first epoch with nothing on disk yet. LitData reads chunks
that it made itself and that lie on the disk: its best case. It needs an environment of its own, since it asks for a
torchvision that breaks others: LITDATA_PYTHON names its Python; without it, our side is measured alone.

Beside the first epoch stands what no reader can do without: the same bytes by parallel GETs that are thrown away, what the
object store's own process spends on them, and their digests. With the time to read them in place, spread evenly over all
cores, that is `cold_over_local_at_most`.
"""

import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import numpy as np
import psutil

from aios.train import data
from aios.train.shards import FETCHES_AT_ONCE, file_digest, write_shards
from bench import fashion, stack
from bench.report import Report

BATCH = 256
SHARD_BYTES = 16 << 20
EPOCHS = 3
LITDATA = """
import json, sys, time, gzip
import numpy as np
from litdata import StreamingDataset, StreamingDataLoader
from litdata.streaming import writer

def main(source, folder, epochs, batch):
    held = np.load(source)
    images, labels = held["image"], held["label"]
    out = writer.BinaryWriter(cache_dir=folder, chunk_bytes=16 << 20)
    for index in range(len(images)):
        out[index] = {"image": images[index], "label": int(labels[index])}
    out.done()
    out.merge(1)
    dataset = StreamingDataset(folder, shuffle=True, seed=7)
    rates = []
    for epoch in range(epochs):
        count, began, cpu = 0, time.perf_counter(), time.process_time()
        for each in StreamingDataLoader(dataset, batch_size=batch, num_workers=0):
            count += len(each["label"])
        rates.append((count / (time.process_time() - cpu), count / (time.perf_counter() - began)))
    print(json.dumps(rates))

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
"""


def epoch(records: data.Records) -> tuple[float, float]:
    """Samples per second of processor time and of time, as tensors."""
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    for batch in records.loader(BATCH, drop_last=False):
        count += len(batch["label"])
    return count / (time.process_time() - cpu), count / (time.perf_counter() - began)


def ours(report: Report, shards: Path, folder: Path) -> float:
    """Measure a stack's dataset, cold and warm, and shards in place. Returns the cold rate per processor second."""
    local = data.open_folder(shards, seed=7)
    in_place = []
    for _ in range(EPOCHS):
        in_place.append(epoch(local))
        local.next_epoch()
    local_rate = max(rate for _, rate in in_place)
    local_cpu = 1 / max(rate for rate, _ in in_place)
    with stack.running(AIOS_TELEMETRY="false") as platform:
        asyncio.run(_push(platform, shards))
        os.environ |= {
            "AIOS_ADDRESS": platform.state.address,
            "AIOS_TOKEN": platform.token,
            "AIOS_PROJECT": "default",
        }
        data.open("warm", seed=1, cache=folder / "warm")  # what is imported at the first use
        records = data.open("fashion", seed=7, cache=folder / "cache")
        cold = epoch(records)
        records.next_epoch()
        warm = epoch(records)
        need = raw(report, platform, shards)
    least = (need / len(local) + local_cpu) / (os.cpu_count() or 1)
    report.figure("cold_over_local_at_most", 1 / least / local_rate)
    report.figure("local_samples_per_second", local_rate)
    report.figure("cold_samples_per_second", cold[1])
    report.figure("cold_samples_per_cpu_second", cold[0])
    report.figure("warm_samples_per_cpu_second", warm[0])
    report.bar("cold_over_local", cold[1] / local_rate, at_least=0.6)
    return cold[0]


def raw(report: Report, platform: stack.Stack, shards: Path) -> float:
    """Get all shards and throw them away. Returns the processor seconds of both ends and of the digests."""
    doors = [urlsplit(url) for url in asyncio.run(_urls(platform))]
    store = psutil.Process(platform.state.services["s3"].pid)

    def get(door: SplitResult) -> int:
        connection = http.client.HTTPConnection(door.netloc)
        connection.request("GET", f"{door.path}?{door.query}")
        answer, room, total = connection.getresponse(), bytearray(1 << 20), 0
        while count := answer.readinto(room):
            total += count
        connection.close()
        return total

    times: list[tuple[float, float, float]] = []
    size = 0
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:
        for _ in range(EPOCHS):
            before, spent, began = store.cpu_times(), time.process_time(), time.perf_counter()
            size = sum(pool.map(get, doors))
            seconds, after = time.perf_counter() - began, store.cpu_times()
            served = after.user + after.system - before.user - before.system
            times.append((seconds, time.process_time() - spent, served))
    seconds, mine, served = (sum(each) / EPOCHS for each in zip(*times, strict=True))
    began = time.process_time()
    for path in shards.glob("*.arrow"):
        file_digest(path)
    digests = time.process_time() - began
    report.figure("raw_get_mebibytes_per_second", size / seconds / 2**20)
    report.figure("raw_get_client_cpu_seconds", mine)
    report.figure("raw_get_store_cpu_seconds", served)
    report.figure("digest_cpu_seconds", digests)
    return float(mine + served + digests)


async def _urls(platform: stack.Stack) -> list[str]:
    async with platform.client() as client:
        version = await client.datasets.version("fashion")
        return [each.url async for each in client.datasets.downloads(version.name)]


async def _push(platform: stack.Stack, shards: Path) -> None:
    async with platform.client() as client:
        await client.datasets.push("fashion", shards)
        await client.datasets.push("warm", sorted(shards.glob("*.arrow"))[-1])


def main() -> None:
    report = Report("data_reader")
    columns, report.figures["data"] = fashion.arrays()
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as home:
        folder = Path(home)
        write_shards(folder / "shards", columns, SHARD_BYTES)
        mine = ours(report, folder / "shards", folder)
        python = os.environ.get("LITDATA_PYTHON", "")
        if not python:
            report.say("LITDATA_PYTHON is not set: nothing to compare with")
            report.finish()
            return
        np.savez(folder / "source.npz", image=columns["image"], label=columns["label"])
        script = folder / "litdata_side.py"
        script.write_text(LITDATA)
        command = [
            python,
            str(script),
            str(folder / "source.npz"),
            str(folder / "lit"),
            str(EPOCHS),
            str(BATCH),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        rates = json.loads(done.stdout.splitlines()[-1])
        theirs = max(rate for rate, _ in rates)
        report.figure("litdata_samples_per_cpu_second", theirs)
        report.bar("samples_per_cpu_second_over_litdata", mine / theirs, at_least=2.0)
    report.finish()


if __name__ == "__main__":
    main()
