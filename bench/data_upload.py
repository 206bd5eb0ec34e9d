"""One large file pushed through a running stack, its uploader cut off five times: it goes on, nothing is sent twice.

Cut off means that the uploading process is killed. The raw rate is that of the same bytes in presigned parts without
the platform, to the same object store. The service reads everything back and hashes it; that time is told apart. The
size is a tenth of the free disk, 10 GiB at most: the bytes lie in the file, in the object store and in the raw copy.
"""

import asyncio
import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from aios import transfer
from aios.blobs import Blobs
from aios.client.transfer import UPLOAD_SECONDS, Store, put_parts
from aios.config import Settings
from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import data_service_pb2_grpc
from aios.errors import Unavailable
from bench import stack
from bench.data_files import peak_bytes
from bench.report import Report

GIB = 2**30
SIZE = int(os.environ.get("BYTES", "0")) or min(10 * GIB, shutil.disk_usage(tempfile.gettempdir()).free // 10)
CUTS = 5
PART_BYTES, AT_ONCE = 16 << 20, 4
RATE_MIN, MEMORY_MIB_MAX = 0.7, 256
PUSH = "import sys; from aios.client import Client; Client().datasets.push('large', sys.argv[1])"


def make(path: Path) -> str:
    """A file of noise. Returns its digest."""
    generator, digest = random.Random(1), hashlib.sha256()
    noise = generator.randbytes(64 << 20)
    with path.open("wb") as out:
        for number in range(-(-SIZE // len(noise))):
            piece = (number.to_bytes(8, "big") + noise)[: min(len(noise), SIZE - out.tell())]
            out.write(piece)
            digest.update(piece)
    return digest.hexdigest()


async def raw(blobs: Blobs, path: Path) -> float:
    """Bytes per second of the same parts, put without the platform."""
    upload = await blobs.begin_multipart("raw")
    numbers = iter(range(1, -(-SIZE // PART_BYTES) + 1))

    async def worker() -> None:
        async with transfer.client() as http:
            for number in numbers:
                offset = (number - 1) * PART_BYTES
                sha256, size = await asyncio.to_thread(transfer.digest, path, offset, PART_BYTES)
                door = blobs.presigned_part("raw", upload, number, sha256, size)
                await transfer.upload_part(http, path, offset, size, door.url, door.headers)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    await blobs.complete_multipart("raw", upload, await blobs.parts("raw", upload))
    seconds = time.perf_counter() - began
    await blobs.delete("raw")
    return SIZE / seconds


async def pushed(
    stub: data_service_pb2_grpc.DataServiceStub, path: Path, sha256: str, report: Report
) -> float:
    """Begin to complete of a fresh upload, in one go. Returns seconds without the verification."""
    begin = pb.BeginUploadRequest(parent="projects/default", sha256=sha256, size_bytes=SIZE)
    async with transfer.client() as http:
        began = time.perf_counter()
        upload = await stub.BeginUpload(begin)
        await put_parts(Store(stub, http, "projects/default"), upload, path, SIZE, lambda moved: None)
        put = time.perf_counter() - began
        began = time.perf_counter()
        while True:
            try:
                await stub.CompleteUpload(pb.CompleteUploadRequest(name=upload.name), timeout=UPLOAD_SECONDS)
                break
            except Unavailable:
                await asyncio.sleep(0.2)
    report.figure("verification_seconds", time.perf_counter() - began)
    return put


async def stored_parts(stub: data_service_pb2_grpc.DataServiceStub, sha256: str) -> int:
    begin = pb.BeginUploadRequest(parent="projects/default", sha256=sha256, size_bytes=SIZE)
    return len((await stub.BeginUpload(begin)).stored_parts)


async def cut_off(platform: stack.Stack, path: Path, sha256: str, report: Report) -> None:
    """Push with an uploader that is killed; the last one gets through, and what arrives is pulled and compared."""
    environment = {**os.environ, "AIOS_ADDRESS": platform.state.address, "AIOS_TOKEN": platform.token}
    async with platform.client() as client:
        stub = data_service_pb2_grpc.DataServiceStub(client.datasets._connection.channel)
        count, last, kept = -(-SIZE // PART_BYTES), 0, []
        for cut in range(1, CUTS + 1):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PUSH, str(path), env=environment
            )
            while await stored_parts(stub, sha256) < cut * count // (CUTS + 1):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            process.kill()
            await process.wait()
            there = await stored_parts(stub, sha256)
            kept.append(there)
            assert there >= last, "an upload lost parts"
            last = there
        report.figures["parts"], report.figures["parts_there_after_each_cut"] = count, kept
        version = await client.datasets.push("large", path)
        await client.datasets.pull("large", path.parent / "out")
    right = version.files[0].sha256 == sha256 if version.files else version.size_bytes == SIZE
    same, _ = transfer.digest(path.parent / "out" / path.name)
    report.bar("digest_equal", float(right and same == sha256), at_least=1.0)


async def measure(report: Report, platform: stack.Stack, folder: Path) -> None:
    path = folder / "large.bin"
    sha256 = make(path)
    pid = platform.state.services["data"].pid
    before = peak_bytes(pid)
    settings = Settings.load(
        {
            "AIOS_HOME": str(platform.home),
            "AIOS_S3_ENDPOINT": f"http://127.0.0.1:{platform.state.ports['s3']}",
        }
    )
    blobs = await Blobs.open(settings)
    rates = [await raw(blobs, path)]
    async with platform.client() as client:
        stub = data_service_pb2_grpc.DataServiceStub(client.datasets._connection.channel)
        seconds = await pushed(stub, path, sha256, report)
    rates.append(await raw(blobs, path))
    await blobs.close()
    report.figure("raw_mib_per_second", max(rates) / 2**20)
    report.figure("mib_per_second", SIZE / seconds / 2**20)
    report.bar("rate_over_raw", SIZE / seconds / max(rates), at_least=RATE_MIN)
    with path.open("r+b") as out:  # other content, so that nothing of it is there
        out.write(os.urandom(8))
    other, _ = transfer.digest(path)
    await cut_off(platform, path, other, report)
    report.figure("service_memory_before_mib", before / 2**20)
    report.bar("service_memory_mib", peak_bytes(pid) / 2**20, MEMORY_MIB_MAX)


def main() -> None:
    report = Report("data_upload")
    report.figure("gibibytes", SIZE / GIB)
    folder = Path(tempfile.mkdtemp(prefix="aios-bench-"))
    try:
        with stack.running(AIOS_TELEMETRY="false") as platform:
            asyncio.run(measure(report, platform, folder))
    finally:
        shutil.rmtree(folder)
    report.finish()


if __name__ == "__main__":
    main()
