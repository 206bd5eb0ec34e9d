"""What an edit costs: 100 documents inserted in one place and 50 dropped in another, of 60,000, pushed again.

Bytes that the second push stores, index and all, as a share of the file: as JSON lines, and as Parquet that was written
with page boundaries by content. Beside it the same edits at 150 random places, which no chunks can make cheap.
"""

import asyncio
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import func, select

from aios.client import AsyncClient
from aios.client.credentials import Credentials
from bench.report import Report
from services.data import tables
from tests.servers import s3_server
from tests.service.data_service import Platform, running, settings_at, token_of

DOCUMENTS, INSERTED, DROPPED = 60_000, 100, 50
JSONL_SHARE_MAX, PARQUET_SHARE_MAX = 0.02, 0.20
WORDS = 20_000

Document = dict[str, Any]


def documents() -> list[Document]:
    """Texts of 20 to 110 words of Zipf's frequencies: as long as package descriptions, and as compressible."""
    generator = random.Random(1)
    words = [
        "".join(generator.choices("etaoinshrdlcumwfgypbvk", k=generator.randint(2, 11))) for _ in range(WORDS)
    ]
    weights = [1 / rank for rank in range(1, WORDS + 1)]
    drawn = iter(generator.choices(words, weights, k=DOCUMENTS * 110))
    return [
        {
            "id": number,
            "section": next(drawn),
            "text": " ".join(next(drawn) for _ in range(generator.randint(20, 109))),
        }
        for number in range(DOCUMENTS)
    ]


def in_two_places(rows: Sequence[Document]) -> list[Document]:
    new = [{"id": -each, "section": "new", "text": f"{each} " * 60} for each in range(1, INSERTED + 1)]
    return [*rows[:20_000], *new, *rows[20_000:40_000], *rows[40_000 + DROPPED :]]


def everywhere(rows: Sequence[Document]) -> list[Document]:
    generator, edited = random.Random(2), list(rows)
    for each in range(1, INSERTED + 1):
        edited.insert(
            generator.randrange(len(edited)), {"id": -each, "section": "new", "text": f"{each} " * 60}
        )
    for _ in range(DROPPED):
        del edited[generator.randrange(len(edited))]
    return edited


def write_jsonl(rows: Sequence[Document], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(rows: Sequence[Document], path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist(list(rows)), path, use_content_defined_chunking=True, compression="zstd"
    )


async def stored(platform: Platform) -> int:
    query = select(func.coalesce(func.sum(tables.blobs.c.size_bytes), 0))
    return int(await platform.db.read(lambda tx: tx.execute(query).scalar_one()))


async def main() -> None:
    report = Report("data_dedup")
    rows = documents()
    cases: list[tuple[str, Callable[..., None], Callable[..., list[Document]], float | None]] = [
        ("jsonl", write_jsonl, in_two_places, JSONL_SHARE_MAX),
        ("parquet", write_parquet, in_two_places, PARQUET_SHARE_MAX),
        ("jsonl_scattered", write_jsonl, everywhere, None),
        ("parquet_scattered", write_parquet, everywhere, None),
    ]
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as home, s3_server(Path(home, "s3")) as s3:
        async with running(s3.settings(settings_at(Path(home, "data")))) as platform:
            credentials = Credentials(f"http://{platform.address}", "demo", token_of("editor"))
            async with AsyncClient(credentials=credentials) as client:
                for name, write, edit, share_max in cases:
                    file = Path(home, f"documents.{name.partition('_')[0]}")
                    write(rows, file)
                    await client.datasets.push(name.replace("_", "-"), file)
                    before = await stored(platform)
                    write(edit(rows), file)
                    await client.datasets.push(name.replace("_", "-"), file)
                    share = (await stored(platform) - before) / file.stat().st_size
                    report.figure(f"{name}_mebibytes", file.stat().st_size / 2**20)
                    if share_max is None:
                        report.figure(f"{name}_share", share)
                    else:
                        report.bar(f"{name}_share", share, share_max)
    report.finish()


if __name__ == "__main__":
    asyncio.run(main())
