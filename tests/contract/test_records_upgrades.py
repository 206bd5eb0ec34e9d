"""A newer release takes over the records of an older one: whole, or not at all, however often it is killed."""

import importlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table

from aios import records
from aios.config import Settings
from aios.records.migrations import RecordsTooNew
from tests.contract import upgrades
from tests.contract.test_records_migrations import STORES
from tests.contract.upgrades import Service, Upgrader

KILLS = 3
BOOKS = 4_000  # an upgrade of some tenths of a second

library = MetaData()
Table("shelves", library, Column("id", Integer, primary_key=True), Column("label", String(40), nullable=False, unique=True))  # fmt: skip
Table(
    "books",
    library,
    Column("id", Integer, primary_key=True),
    Column("shelf", ForeignKey("shelves.id", ondelete="CASCADE"), nullable=False),
    Column("title", String(200), nullable=False),
    Column("pages", Integer, nullable=False, server_default="0", index=True),
)
records.add_to(library)

HEAD = '''"""{what}"""

import sqlalchemy as sa
from alembic import op

from aios import records

revision = "{number:04}"
down_revision = {former!r}


def upgrade() -> None:
'''
STEPS = (
    (
        "shelves and books",
        """
    common = sa.MetaData()
    records.add_to(common)
    common.create_all(op.get_bind())
    op.create_table(
        "shelves", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("name", sa.Text(), nullable=False)
    )
    op.create_table(
        "books",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("shelf", sa.Integer(), sa.ForeignKey("shelves.id", ondelete="CASCADE"), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
    )
""",
    ),
    (
        "a column with its index, and every row rewritten",
        """
    op.add_column("books", sa.Column("pages", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE books SET pages = length(title)")
    op.create_index("ix_books_pages", "books", ["pages"])
""",
    ),
    (
        "both tables rebuilt: one that others refer to, and one that refers",
        """
    with op.batch_alter_table("shelves") as batch:
        batch.alter_column("name", new_column_name="label", type_=sa.String(40), nullable=False)
        batch.create_unique_constraint("shelves_label", ["label"])
    with op.batch_alter_table("books") as batch:
        batch.alter_column("title", type_=sa.String(200), nullable=False)
""",
    ),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, database_url: Callable[[str], str]) -> Settings:
    return Settings(home=tmp_path / "home", database_url=database_url(request.param))


@pytest.fixture(scope="module")
def upgrader() -> Iterator[Upgrader]:
    made = Upgrader()
    yield made
    made.close()


@pytest.fixture
def shop(tmp_path: Path) -> Service:
    """A service whose third release rebuilds what the first one made."""
    versions = tmp_path / "library" / "migrations" / "versions"
    versions.mkdir(parents=True)
    for number, (what, body) in enumerate(STEPS, 1):
        former = f"{number - 1:04}" if number > 1 else None
        head = HEAD.format(what=what, number=number, former=former)
        (versions / f"{number:04}.py").write_text(head + body.lstrip("\n"))
    return Service("library", library, versions.parent)


def stocked(settings: Settings, service: Service, number: int, folder: Path) -> upgrades.Rows:
    """The database of an earlier release with many books in it. Returns what it holds."""
    engine = upgrades.at_release(settings, service, number, folder)
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO shelves (id, name) VALUES (:id, :name)"),
            [{"id": n, "name": f"shelf {n}"} for n in range(1, 11)],
        )
        connection.execute(
            sa.text("INSERT INTO books (id, shelf, title) VALUES (:id, :shelf, :title)"),
            [{"id": n, "shelf": n % 10 + 1, "title": f"book {n} " + "x" * (n % 90)} for n in range(BOOKS)],
        )
    with engine.connect() as connection:
        before = upgrades.contents(connection)
    engine.dispose()
    return before


@pytest.mark.parametrize("number", [1, 2])
def test_an_upgrade_keeps_every_row_also_of_tables_that_it_rebuilds(
    settings: Settings, shop: Service, tmp_path: Path, number: int
) -> None:
    before = stocked(settings, shop, number, tmp_path)

    after = upgrades.run_open(settings, shop)

    upgrades.kept(before, after)
    assert [row["label"] for row in after["shelves"]] == [row["name"] for row in before["shelves"]]
    if number == 1:
        assert all(row["pages"] == len(row["title"]) for row in after["books"])


def test_an_upgrade_killed_at_any_moment_is_whole_or_not_begun(
    settings: Settings, shop: Service, upgrader: Upgrader, tmp_path: Path
) -> None:
    before = stocked(settings, shop, 1, tmp_path)
    another = upgrades.copies(settings, shop, tmp_path)
    whole = upgrader.run(another(), shop, None)
    dice = random.Random(5)
    seen = set()
    for kill in range(KILLS):
        copy = another()
        upgrader.run(copy, shop, dice.uniform(0, 1.1) * whole if kill else 0.0)
        if kill % 2:  # again, over what the first left
            upgrader.run(copy, shop, dice.uniform(0, 1.1) * whole)
        engine = upgrades.as_left(copy, shop)
        with engine.connect() as connection:
            seen.add(upgrades.version(connection))
            left = upgrades.contents(connection)
        engine.dispose()
        assert left == before or "label" in left["shelves"][0]
        upgrades.kept(before, left)

        upgrades.kept(before, upgrades.run_open(copy, shop))

    assert seen <= {"0001", "0003"}, seen
    assert "0001" in seen, "no kill came in time"


def test_a_migration_that_loses_what_rows_refer_to_is_undone(
    settings: Settings, shop: Service, tmp_path: Path
) -> None:
    before = stocked(settings, shop, 3 - 1, tmp_path)
    bad = HEAD.format(what="half of the shelves go", number=3, former="0002")
    (shop.directory / "versions" / "0003.py").write_text(bad + "    op.execute('DELETE FROM shelves WHERE id > 5')\n    op.execute('SELECT 1 FROM nowhere')\n" )  # fmt: skip

    with pytest.raises(Exception, match="nowhere"):
        upgrades.run_open(settings, shop)

    engine = upgrades.as_left(settings, shop)
    with engine.connect() as connection:
        assert upgrades.contents(connection) == before
    engine.dispose()


@pytest.mark.parametrize("store", STORES)
def test_each_service_takes_over_what_each_of_its_former_releases_wrote(
    settings: Settings, store: str, upgrader: Upgrader, tmp_path: Path
) -> None:
    module = importlib.import_module(store)
    service = Service(store.split(".")[1], module.metadata, Path(str(module.__file__)).parent / "migrations")
    for number in range(1, len(service.versions) + 1):
        folder = tmp_path / str(number)
        here = upgrades.elsewhere(settings, folder)
        engine = upgrades.at_release(here, service, number, folder)
        with engine.begin() as connection:
            upgrades.populate(connection)
        with engine.connect() as connection:
            before = upgrades.contents(connection)
        engine.dispose()
        for _ in range(2):
            upgrader.run(here, service, random.uniform(0, 0.05))

        after = upgrades.run_open(here, service)

        upgrades.kept(before, after)
        assert set(after) == set(service.metadata.tables)


def test_records_of_a_newer_release_are_refused_with_what_to_do(
    settings: Settings, shop: Service, tmp_path: Path
) -> None:
    upgrades.run_open(settings, shop)
    older = Service(shop.name, shop.metadata, shop.release(2, tmp_path))

    with pytest.raises(RecordsTooNew, match="run the release that wrote them, or restore the backup"):
        upgrades.run_open(settings, older)

    assert upgrades.run_open(settings, shop)
