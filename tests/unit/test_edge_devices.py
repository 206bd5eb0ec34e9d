"""What a device may say and follow, what is put to work, and figures that count once however often they are told."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.edge import bundle
from aios.edge.shelf import STATE, Shelf, Unfit
from aios.errors import InvalidArgument
from aios.names import EdgeDeviceName, ModelVersionName
from aios.records import Database
from services.data import store as tables
from services.data.app import MIGRATIONS
from services.data.edge import devices, store
from services.data.edge.devices import Record, Report
from tests.e2e.test_edge import SIGNATURE, model
from tests.service.data_service import settings_at
from tests.unit.test_edge import VERSION

ROOF = EdgeDeviceName("demo", "roof")
FIRST = "projects/demo/models/sums/versions/1"


def test_a_device_follows_an_alias_or_a_number_of_its_project() -> None:
    for last in ("@field", "3"):
        assert devices.check_follows(FIRST[:-1] + last, "demo", "follows").version == last
    for wrong in (FIRST[:-1] + "latest", FIRST.replace("demo", "other")):
        with pytest.raises(InvalidArgument):
            devices.check_follows(wrong, "demo", "follows")


def test_users_of_devices_and_those_of_mqtt_are_told_apart() -> None:
    assert devices.device_of(devices.user_of(ROOF)) == ROOF
    assert devices.device_of("demo/weather/roof") is None
    assert devices.device_of("roof") is None


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda each: st.lists(each) | st.dictionaries(
    st.sampled_from(["stream", "records", "sequence", "version", "requests", "running", "problem"]), each)))  # fmt: skip
def test_what_is_no_report_or_no_ask_is_refused_and_nothing_else_happens(said: Any) -> None:
    data = json.dumps(said).encode()
    with pytest.raises(ValueError, match="no report"):
        devices.read_report(data)
    try:
        told = devices.read_ask(data)
    except ValueError:
        return
    assert isinstance(said, dict)
    assert told.running == said.get("running", "").replace("\0", "?")


@pytest.mark.parametrize("said", [b"[" * 100_000, b"[]", b"1", b"", b"\xff", b'{"running": 1}'])
def test_what_says_nothing_is_refused(said: bytes) -> None:
    for read in (devices.read_ask, devices.read_report):
        with pytest.raises(ValueError, match=r"."):
            read(said)


def test_what_no_database_keeps_does_not_stop_a_device_from_asking() -> None:
    said = {"problem": "it cannot be fetched: \0\ud800"}
    assert devices.read_ask(json.dumps(said).encode()) == devices.Ask("", "it cannot be fetched: ??")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    found = await Database.open(settings_at(tmp_path), "data", tables.metadata, MIGRATIONS)
    yield found
    await found.close()


async def test_each_record_counts_once_however_often_it_is_told(db: Database) -> None:
    follows = ModelVersionName.parse(FIRST)
    signed = store.Bundle(follows, b"{}", b"", b"", "", 0)
    await db.write(lambda tx: (store.add_device(tx, ROOF, follows, "secret"), store.keep_bundle(tx, signed)))
    records = [Record(n, FIRST, 2, 1, 16, 1000) for n in (1, 2, 4)]

    async def tell(report: Report) -> int:
        return await db.write(lambda tx: store.take_in(tx, ROOF, report))

    async def counted() -> tuple[int, int, int]:
        (found,) = (await db.read(lambda tx: store.get_device(tx, ROOF))).figures
        return found.requests, found.errors, found.predictions

    assert await tell(Report("first", records[:2])) == 2
    assert await tell(Report("first", records[:2])) == 2  # its answer was lost
    assert await tell(Report("first", records)) == 4
    assert await counted() == (6, 3, 48)
    assert await tell(Report("anew", [replace(records[0], predictions=1)])) == 1  # the device was wiped
    assert await counted() == (8, 4, 49)
    made_up = ("x", FIRST[:-1] + "2", FIRST.replace("demo", "other"), FIRST[:-1] + "9" * 40)
    others = [replace(records[0], sequence=n, version=text) for n, text in enumerate(made_up, 2)]
    assert await tell(Report("anew", others)) == 5  # none of them was signed
    assert await counted() == (8, 4, 49)


async def test_a_shelf_keeps_what_ran_and_takes_nothing_that_does_not_answer(tmp_path: Path) -> None:
    key = bundle.key_at(tmp_path / "edge.pem")
    shelf = Shelf(tmp_path / "shelf", key.public_key().public_bytes_raw())
    assert shelf.load() == (None, "")

    async def install(number: int, inputs: int = 3, signer: Any = key) -> None:
        files = model(tmp_path / f"{number}", number, inputs)
        version = type(VERSION)(name=f"{FIRST[:-1]}{number}", signature=SIGNATURE)
        signed = bundle.signed(version, files, signer)

        async def fetch(target: Path) -> None:
            target.write_bytes((files / "model.onnx").read_bytes())

        await shelf.install(signed.manifest, signed.signature.hex(), fetch)

    def runs() -> str:
        found, _ = Shelf(tmp_path / "shelf", key.public_key().public_bytes_raw()).load()
        return found.version[-1] if found else ""

    await install(1)
    await install(2)
    with pytest.raises(Unfit, match="does not answer"):
        await install(3, inputs=5)
    with pytest.raises(Unfit, match="signature"):
        await install(4, signer=bundle.key_at(tmp_path / "other.pem"))
    assert runs() == "2"
    newest, _ = json.loads((tmp_path / "shelf" / STATE).read_text())
    (tmp_path / "shelf" / newest / "model.onnx").write_bytes(b"worn out")
    assert runs() == "1"
    await install(5)
    newest, before = json.loads((tmp_path / "shelf" / STATE).read_text())
    (tmp_path / "shelf" / newest / "model.onnx").write_bytes(b"worn out")
    assert runs() == "1"
    assert {each.name for each in (tmp_path / "shelf").iterdir() if each.is_dir()} == {newest, before}


async def test_a_shelf_goes_back_to_the_model_before_without_a_link(tmp_path: Path) -> None:
    key = bundle.key_at(tmp_path / "edge.pem")
    shelf = Shelf(tmp_path / "shelf", key.public_key().public_bytes_raw())
    signed = []
    for number in (1, 2):
        files = model(tmp_path / f"{number}", number, 3)
        version = type(VERSION)(name=f"{FIRST[:-1]}{number}", signature=SIGNATURE)
        signed.append(bundle.signed(version, files, key))

        async def fetch(target: Path, files: Path = files) -> None:
            target.write_bytes((files / "model.onnx").read_bytes())

        await shelf.install(signed[-1].manifest, signed[-1].signature.hex(), fetch)

    async def no_link(target: Path) -> None:
        raise OSError("no link")

    with pytest.raises(Unfit, match="signature"):
        await shelf.install(signed[0].manifest, "00" * 64, no_link)
    found = await shelf.install(signed[0].manifest, signed[0].signature.hex(), no_link)
    assert found.version.endswith("1")
    again, _ = shelf.load()
    assert again is not None
    assert again.id == found.id
