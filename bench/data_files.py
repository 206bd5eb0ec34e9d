"""600,000 small files in one version: what a commit and a comparison take, through a running stack's door.

The commit is what the service does once everything is uploaded: reads the index back, checks every path and every
part, and writes the version. The files are listed as a push lists them, in packs that are uploaded; a folder of 20,000
files of 100 to 3,000 bytes, as icons or records are, is pushed and pulled besides.
"""

import asyncio
import hashlib
import os
import random
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from aios import transfer
from aios.client.transfer import Progress, Store, put_blob
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc
from aios.trees.tree import Leaf, Part, Tree
from bench import stack
from bench.report import Report

FILES = int(os.environ.get("FILES", "600000"))
FILES_PER_PACK = 200_000
FOLDER_FILES = int(os.environ.get("FOLDER_FILES", "20000"))
COMMIT_SECONDS_MAX, DIFF_SECONDS_MAX = 60.0, 1.0
EDITS = 100


def make(folder: Path) -> int:
    """Files of random bytes, a thousand to a folder. Returns their bytes."""
    generator = random.Random(1)
    noise = generator.randbytes(1 << 20)
    total = 0
    for number in range(FOLDER_FILES):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04}").mkdir(parents=True)
        start, size = generator.randrange(1 << 19), generator.randrange(100, 3000)
        content = number.to_bytes(4, "big") + noise[start : start + size]
        (folder / f"{number // 1000:04}" / f"{number:06}.bin").write_bytes(content)
        total += len(content)
    return total


def listed(folder: Path) -> tuple[list[Leaf], list[Path]]:
    """Many files of 64 bytes, and the packs that hold them."""
    leaves, packs = [], []
    for start in range(0, FILES, FILES_PER_PACK):
        numbers = range(start, min(start + FILES_PER_PACK, FILES))
        contents = [hashlib.sha512(number.to_bytes(4, "big")).digest() for number in numbers]
        pack = b"".join(contents)
        sha256 = hashlib.sha256(pack).hexdigest()
        packs.append(folder / sha256)
        packs[-1].write_bytes(pack)
        leaves += [
            Leaf(
                f"{number // 1000:04}/{number:06}.bin",
                hashlib.sha256(content).hexdigest(),
                64,
                (Part(sha256, 64 * (number - start), 64, ""),),
            )
            for number, content in zip(numbers, contents, strict=True)
        ]
    return leaves, packs


async def many(report: Report, platform: stack.Stack, folder: Path) -> None:
    """Commit a version of all files, then one with some of them edited, and compare the two."""
    leaves, packs = listed(folder)
    first = Tree.of(leaves)
    other = leaves[0].sha256
    edited = first.replaced({leaf.path: replace(leaf, sha256=other) for leaf in leaves[1 : EDITS + 1]})
    async with platform.client() as client, transfer.client() as http:
        stub = data_service_pb2_grpc.DataServiceStub(client.datasets._connection.channel)
        store = Store(stub, http, "projects/default")
        for pack in packs:
            await put_blob(store, pack.name, pack, lambda moved: None)
        parent = "projects/default/datasets/many"
        await stub.CreateDataset(pb.CreateDatasetRequest(parent="projects/default", dataset_id="many"))
        seconds, index_bytes = [], 0
        for tree in (first, edited):
            encoded = tree.encode()
            index_bytes = len(encoded)
            index = folder / hashlib.sha256(encoded).hexdigest()
            index.write_bytes(encoded)
            await put_blob(store, index.name, index, lambda moved: None)
            request = pb.CreateDatasetVersionRequest(parent=parent)
            request.dataset_version.index_sha256 = index.name
            began = time.perf_counter()
            made = await stub.CreateDatasetVersion(request, timeout=COMMIT_SECONDS_MAX)
            seconds.append(time.perf_counter() - began)
            assert made.file_count == FILES
        report.figure("index_mebibytes", index_bytes / 2**20)
        report.bar("commit_seconds", max(seconds), COMMIT_SECONDS_MAX)
        diffs = []
        for _ in range(5):
            began = time.perf_counter()
            changes = [each async for each in client.datasets.diff("many")]
            diffs.append(time.perf_counter() - began)
            assert len(changes) == EDITS
        # The first has both tables to read; the others find what it found.
        report.figure("diff_again_seconds", statistics.median(diffs[1:]))
        report.bar("diff_seconds", diffs[0], DIFF_SECONDS_MAX)


async def few(report: Report, platform: stack.Stack, folder: Path) -> None:
    """Push a folder, push it again with some files edited, pull it."""
    async with platform.client() as client:
        moved = began = time.perf_counter()

        def progress(_: Progress) -> None:
            nonlocal moved
            moved = time.perf_counter()

        await client.datasets.push("small", folder, progress=progress)
        report.figure("push_seconds", time.perf_counter() - began)
        # With the index, which is made and uploaded once all files are.
        report.figure("push_commit_seconds", time.perf_counter() - moved)
        for number in range(EDITS):
            (folder / "0000" / f"{number:06}.bin").write_bytes(b"edited %d" % number)
        began = time.perf_counter()
        await client.datasets.push("small", folder)
        report.figure("second_push_seconds", time.perf_counter() - began)
        began = time.perf_counter()
        await client.datasets.pull("small", folder.parent / "out")
        report.figure("pull_seconds", time.perf_counter() - began)


def peak_bytes(pid: int | None) -> int:
    """The most memory that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def main() -> None:
    report = Report("data_files")
    report.figures |= {"files": FILES, "folder_files": FOLDER_FILES}
    home = Path(tempfile.mkdtemp(prefix="aios-bench-"))
    try:
        report.figure("folder_mebibytes", make(home / "files") / 2**20)
        with stack.running(AIOS_TELEMETRY="false") as platform:
            (home / "packs").mkdir()
            asyncio.run(many(report, platform, home / "packs"))
            report.figure("service_peak_mib", peak_bytes(platform.state.services["data"].pid) / 2**20)
            asyncio.run(few(report, platform, home / "files"))
    finally:
        shutil.rmtree(home)
    report.finish()


if __name__ == "__main__":
    main()
