"""A model version's card, as it is shown."""

from aios.cli import cards
from aios.common.v1 import file_pb2
from aios.data.v1 import model_pb2
from aios.trainer.v1 import run_pb2

VERSION = model_pb2.ModelVersion(
    name="projects/demo/models/digits/versions/3",
    card="# digits\n\n| figure | value |\n| --- | --- |\n| accuracy | 0.97 |\n\n<script>alert(1)</script>\n",
    run="projects/demo/runs/r1",
    size_bytes=2048,
    files=[file_pb2.File(path="model.onnx", sha256="ab" * 32)],
    metrics={"accuracy": 0.97},
    rejected="it got slower",
)


def test_a_card_has_what_was_found_out_since() -> None:
    assessed = run_pb2.Run(name="projects/demo/runs/a1", metrics={"pgd_accuracy": 0.12})
    text = cards.whole(VERSION, assessed)
    for part in (
        "# digits",
        "**Rejected:** it got slower",
        "`model.onnx`",
        "projects/demo/runs/a1",
        "| pgd_accuracy | 0.12 |",
    ):
        assert part in text
    assert "Assessment" not in cards.whole(VERSION, None)


def test_a_version_without_a_card_says_so_and_has_its_metrics() -> None:
    text = cards.whole(
        model_pb2.ModelVersion(name="projects/demo/models/m/versions/1", metrics={"f1": 0.5}), None
    )
    assert "Nobody has written a card" in text
    assert "| f1 | 0.5 |" in text


def test_what_a_card_has_of_html_is_text_on_its_page() -> None:
    page = cards.page("digits/3", cards.whole(VERSION, None))
    assert "<td>accuracy</td>" in page
    assert "<script>" not in page
