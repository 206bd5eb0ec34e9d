"""`aios simulate`: the answer in every form, the page, and what is refused."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from aios.cli.root import root
from services.scheduler.simulate import charts
from services.scheduler.simulate.__main__ import main

SMALL = Path(__file__).parents[2] / "bench" / "traces" / "gavel" / "small.trace"


def test_the_command_shows_policies_side_by_side(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = [
        "simulate",
        "-t",
        str(SMALL),
        "-c",
        "2x4:v100",
        "-P",
        "fcfs",
        "-P",
        "srtf",
        "--report",
        str(page),
    ]
    result = CliRunner().invoke(root, [*arguments, "--json"])
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert set(answer["policies"]) == {"fcfs", "srtf"}
    assert answer["policies"]["fcfs"]["jobs"] == 15
    assert answer["recommended"] in answer["policies"]
    assert "suits this history best" in result.stderr
    assert page.exists()


def test_a_policy_that_does_not_exist_is_met_with_those_that_do(capfd: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(
        root, ["simulate", "-t", str(SMALL), "-c", "1x4:v100", "-P", "bets"], standalone_mode=False
    )
    assert result.return_value == 2
    assert "balanced" in capfd.readouterr().err


def test_what_cannot_run_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--trace", str(SMALL), "--cluster", "1x1:v100", "--policy", "fcfs"]) == 1
    assert re.fullmatch(r"job \d+ of the trace needs 2 GPUs.*\n", capsys.readouterr().err)
    assert main(["--trace", "none.csv", "--cluster", "1x1", "--policy", "fcfs"]) == 1


def test_the_picture_has_a_panel_for_each_policy_with_a_line_for_each_job(tmp_path: Path) -> None:
    picture = tmp_path / "panels.svg"
    asked = ["--trace", str(SMALL), "--cluster", "2x4:v100", "--policy", "fcfs", "--policy", "srtf"]
    assert main([*asked, "--panels", str(picture)]) == 0
    svg = "{http://www.w3.org/2000/svg}"
    panels = ElementTree.fromstring(picture.read_text()).findall(f"{svg}g")
    assert [panel.findtext(f"{svg}text") for panel in panels] == ["fcfs", "srtf"]
    for panel in panels:
        waits, runs = (path.attrib["d"] for path in panel.findall(f"{svg}path"))
        assert waits.count("M") == 15
        assert runs.count("M") >= 15


def test_the_page_is_whole_and_takes_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    asked = ["--trace", str(SMALL), "--cluster", "2x4:v100", "--policy", "all", "--report", str(page)]
    assert main(asked) == 0
    text = page.read_text()
    assert not re.search(r"https?://|<script|@import|url\(|\bnan\b|\binf\b", text)
    counts = _Tags()
    counts.feed(text)
    assert counts.seen["svg"] == 4 + counts.seen["tr"] - 1  # four charts, and a Gantt for each policy's row
    assert counts.open == [], "every figure is closed"


class _Tags(HTMLParser):
    """Counts elements, and finds those of the charts that were left open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag in ("figure", "svg", "text", "title", "figcaption", "main"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag == self.open[-1]:
            self.open.pop()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (90, "1.5 min"), (3600, "1 h"), (86400, "24 h"), (8 * 86400, "8 d")],
)
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert charts.duration(seconds) == words
