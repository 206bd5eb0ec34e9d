"""What tests of several folders share."""

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests import postgres

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("aios", deadline=None)
settings.load_profile("aios")

GIVEN = os.environ.get("AIOS_TEST_POSTGRES_URL", "")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """A PostgreSQL that tests may kill, as long as they start it again. Made once, when first asked for."""
    if reason := postgres.why_not():
        pytest.skip(reason)
    with postgres.postgres_server() as running:
        yield running


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """From `sqlite` or `postgresql` to what AIOS_DATABASE_URL would be: empty, or that of a new database."""
    made: list[str] = []

    def url(adapter: str) -> str:
        if adapter == "sqlite":
            return ""
        made.append(
            postgres.new_database(GIVEN) if GIVEN else request.getfixturevalue("postgres_server").database()
        )
        return made[-1]

    yield url
    for each in made:
        postgres.drop_database(each)
