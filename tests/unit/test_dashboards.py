"""The dashboards are as they are made, and plot nothing that nobody measures."""

import re
from pathlib import Path

from tools import dashboards

REPOSITORY = Path(__file__).resolve().parents[2]
MEASURED = re.compile(r'"((?:aios|rpc)\.[a-z_.]+)"')

UNIT = re.compile(r"_(per_second|seconds|ratio)$")
"""What the collector adds to a figure's name, by its unit."""


def measured() -> set[str]:
    """The first words of every figure's name that the code gives to a meter."""
    sources = [*REPOSITORY.glob("services/*/meters.py"), *REPOSITORY.glob("aios/**/*.py")]
    return {name.replace(".", "_") for path in sources for name in MEASURED.findall(path.read_text())}


def test_the_files_are_as_they_are_made() -> None:
    for path, text in dashboards.files().items():
        assert path.read_text() == text, f"python tools/dashboards.py writes {path.name}"


def test_every_figure_is_one_that_we_measure() -> None:
    ours = {UNIT.sub("", figure) for figure in dashboards.figures() if figure.startswith("aios_")}
    assert ours <= measured()


def test_no_two_panels_of_a_dashboard_share_a_place() -> None:
    for uid, (title, panels) in dashboards.DASHBOARDS.items():
        made = dashboards.dashboard(uid, title, panels)
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]}
        assert len(places) == len(panels)
