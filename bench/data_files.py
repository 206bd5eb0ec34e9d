"""600,000 small files in one version: what a push, a commit and a comparison take, through a running stack's door.

The commit is what the service does once everything is uploaded: reads the index back, checks every path and every
part, and writes the version. The files are made for this: 100 to 3,000 bytes each, as icons or records are.
"""

import asyncio
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc
from bench import stack
from bench.report import Report

FILES = int(os.environ.get("FILES", "600000"))
COMMIT_SECONDS_MAX, DIFF_SECONDS_MAX = 60.0, 1.0
EDITS = 100


def make(folder: Path) -> int:
    """Files of random bytes, a thousand to a folder. Returns their bytes."""
    generator = random.Random(1)
    noise = generator.randbytes(1 << 20)
    total = 0
    for number in range(FILES):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04}").mkdir(parents=True)
        start, size = generator.randrange(1 << 19), generator.randrange(100, 3000)
        content = number.to_bytes(4, "big") + noise[start : start + size]
        (folder / f"{number // 1000:04}" / f"{number:06}.bin").write_bytes(content)
        total += len(content)
    return total


async def measure(report: Report, platform: stack.Stack, folder: Path) -> None:
    async with platform.client() as client:
        began = time.perf_counter()
        first = await client.datasets.push("small", folder)
        report.figure("first_push_seconds", time.perf_counter() - began)
        for number in range(EDITS):
            (folder / "0000" / f"{number:06}.bin").write_bytes(b"edited %d" % number)
        began = time.perf_counter()
        second = await client.datasets.push("small", folder)
        report.figure("second_push_seconds", time.perf_counter() - began)
        assert (first.file_count, second.file_count) == (FILES, FILES)

        stub = data_service_pb2_grpc.DataServiceStub(client.datasets._connection.channel)
        seconds = []
        for branch in ("one", "two", "three"):
            request = pb.CreateDatasetVersionRequest(parent="projects/default/datasets/fresh-" + branch)
            create = pb.CreateDatasetRequest(parent="projects/default", dataset_id="fresh-" + branch)
            await stub.CreateDataset(create)
            request.dataset_version.index_sha256 = second.index_sha256
            request.dataset_version.origin.transform = branch
            began = time.perf_counter()
            await stub.CreateDatasetVersion(request, timeout=60)
            seconds.append(time.perf_counter() - began)
        report.figure("commit_again_seconds", min(seconds))
        # The first has the index to read and to check; the others find it in memory.
        report.bar("commit_seconds", max(seconds), COMMIT_SECONDS_MAX)

        diffs = []
        for _ in range(4):
            began = time.perf_counter()
            changes = [each async for each in client.datasets.diff("small")]
            diffs.append(time.perf_counter() - began)
            assert len(changes) == EDITS
        report.figure("first_diff_seconds", diffs[0])
        report.bar("diff_seconds", sorted(diffs)[1], DIFF_SECONDS_MAX)
        began = time.perf_counter()
        await client.datasets.pull("small", folder.parent / "out")
        report.figure("pull_seconds", time.perf_counter() - began)
    pid = platform.state.services["data"].pid
    report.figure("service_peak_mib", peak_bytes(pid) / 2**20)


def peak_bytes(pid: int | None) -> int:
    """The most memory that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def main() -> None:
    report = Report("data_files")
    report.figures["files"] = FILES
    home = Path(tempfile.mkdtemp(prefix="aios-bench-"))
    try:
        report.figure("mebibytes", make(home / "files") / 2**20)
        with stack.running(AIOS_TELEMETRY="false") as platform:
            asyncio.run(measure(report, platform, home / "files"))
    finally:
        shutil.rmtree(home)
    report.finish()


if __name__ == "__main__":
    main()
