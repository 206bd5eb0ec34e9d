"""Transforms of tables, texts and images, without a platform."""

import io
import tempfile
from contextlib import suppress
from datetime import date
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aios.cli.transform import summary_of
from aios.errors import AiosError, InvalidArgument
from services.data import transforms
from services.data.job import duplicates, labels, parts
from services.data.job.engine import Local
from services.data.job.parts import Form, Source, array_of, with_column
from services.data.job.transforms import (
    anonymity,
    augment,
    clean,
    drift,
    encode,
    normalise,
    profile,
    resize,
    split,
    tokenise,
)
from services.data.job.work import Result, Work, folder_of
from services.data.transform_types import TYPES

MODULES = {
    "anonymity": anonymity,
    "augment": augment,
    "clean": clean,
    "drift": drift,
    "encode": encode,
    "normalise": normalise,
    "profile": profile,
    "resize": resize,
    "split": split,
    "tokenise": tokenise,
}


def do(name: str, tables: dict[str, pa.Table] | pa.Table, baseline: pa.Table = None, **given: Any) -> Result:
    """One transform with its defaults, but for what is given."""
    source = Source(tables if isinstance(tables, dict) else {"data": tables}, Form.TABLE)
    inputs = {"baseline": Source({"data": baseline}, Form.TABLE)} if baseline is not None else {}
    made: Result = MODULES[name].run(Work(transforms.parameters_of(name, given), source, inputs))
    return made


def reasons(result: Result, part: str = "data") -> dict[int, str]:
    put = result.quarantine[part]
    return dict(zip(put["_row"].to_pylist(), put["_reason"].to_pylist(), strict=True))


def people(rows: int = 200) -> pa.Table:
    random = np.random.default_rng(0)
    return pa.table(
        {
            "age": random.normal(40, 10, rows),
            "town": random.choice(["Bern", "Basel", "Chur"], rows),
            "label": random.choice(["yes", "no"], rows, p=[0.2, 0.8]),
        }
    )


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_a_profile_says_what_numpy_says() -> None:
    table = people().append_column("gap", pa.array([None if n % 4 == 0 else n for n in range(200)]))

    summary = do("profile", table).summary["columns"]["data"]

    assert summary["age"]["mean"] == pytest.approx(float(np.mean(table["age"].to_numpy())))
    assert summary["age"]["quantiles"]["75%"] == pytest.approx(
        float(np.quantile(table["age"].to_numpy(), 0.75))
    )
    assert (summary["gap"]["nulls"], summary["gap"]["unique"]) == (50, 150)
    assert sum(each["count"] for each in summary["town"]["top"]) == 200


def test_a_report_is_one_page_without_a_script_and_shows_no_markup_of_the_data(tmp_path: Path) -> None:
    table = pa.table({"<script>alert(1)</script>": ["<b>", "x", "y"]})

    folder_of(do("profile", table), tmp_path, Form.TABLE)

    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page


def test_every_row_comes_out_or_is_put_aside_with_its_reasons() -> None:
    table = pa.table({"id": [1, 2, 2, 4], "age": [30, 31, 31, 400], "town": ["Bern", None, None, "Chur"]})

    made = do("clean", table, rules={"age": {"max": 120}}, missing="quarantine", columns=["town"])

    assert made.parts["data"]["id"].to_pylist() == [1]
    assert reasons(made) == {
        1: "town is missing",
        2: "town is missing",
        3: "age is not between -inf and 120",
    }


def test_a_duplicate_names_the_row_that_it_repeats() -> None:
    made = do("clean", pa.table({"a": [1, 1, 2], "b": ["x", "x", "x"]}))
    assert reasons(made) == {1: "duplicate: of row 0"}


def test_missing_numbers_are_filled_as_the_training_part_has_them() -> None:
    given = {"train": pa.table({"x": [1.0, 3.0, None]}), "test": pa.table({"x": [None, 100.0]})}
    made = do("clean", given, missing="mean")
    assert made.parts["test"]["x"].to_pylist() == [2.0, 100.0]
    assert made.summary["repaired"] == {"train": {"x filled": 1}, "test": {"x filled": 1}}


def test_outliers_are_clipped_to_tukeys_fences() -> None:
    made = do("clean", pa.table({"x": [*range(1, 10), 1000]}), outliers="clip", outlier_bound=1.5)
    assert max(made.parts["data"]["x"].to_pylist()) < 20


@pytest.mark.parametrize(
    ("rule", "values", "wrong"),
    [
        ({"type": "integer"}, ["1", "x", "2.5"], [1, 2]),
        ({"pattern": "[a-z]+"}, ["abc", "a1", ""], [1, 2]),
        ({"values": ["a", "b"]}, ["a", "c", None], [1]),
        ({"unique": True}, ["a", "b", "a"], [2]),
        ({"required": True}, ["a", None, "b"], [1]),
        ({"max_length": 2}, ["a", "abc", "ab"], [1]),
    ],
)
def test_a_rule_puts_aside_what_breaks_it(rule: dict[str, Any], values: list[Any], wrong: list[int]) -> None:
    table = pa.table({"n": [0, 1, 2], "c": pa.array(values, pa.string())})
    assert sorted(reasons(do("clean", table, rules={"c": rule}))) == wrong


def test_a_rule_that_cannot_be_read_names_itself() -> None:
    with pytest.raises(InvalidArgument, match=r"parameters.rules.c.patern.*there are type"):
        do("clean", pa.table({"c": ["a"]}), rules={"c": {"patern": "x"}})


def test_texts_that_are_nearly_the_same_are_found_and_others_are_not() -> None:
    random = np.random.default_rng(1)
    words = ["".join(random.choice(list("abcdefgh"), 6)) for _ in range(300)]
    texts = [" ".join(random.choice(words, 60)) for _ in range(60)]
    texts[40] = texts[3].replace(texts[3].split()[10], "changed", 1)

    table = pa.table({"text": texts})
    found = [(one, other) for one, other, _ in duplicates.alike_texts(Local(), table, "text", 0.8)]

    assert found == [(3, 40)]


def test_each_column_is_looked_at_and_of_two_parts_the_training_row_goes() -> None:
    first, second = (
        f"the {word} fox jumps over the lazy dog near the river bank at noon" for word in ("red", "old")
    )
    other = "nothing of this is like anything else that anybody wrote down in this table"
    given = {
        "train": pa.table({"a": [first, other, "short"], "b": ["x y z", other[::-1], first]}),
        "test": pa.table({"a": [second], "b": [second[::-1]]}),
    }
    made = do("clean", given, near_duplicates=0.7)
    assert made.parts["test"].num_rows == 1
    assert list(reasons(made, "train")) == [0]
    assert reasons(made, "train")[0].startswith("near duplicate: a is 8")


def test_images_that_are_nearly_the_same_are_found_and_others_are_not() -> None:
    random = np.random.default_rng(2)
    pixels = [np.kron(random.integers(0, 256, (8, 8)), np.ones((8, 8))).astype(np.uint8) for _ in range(30)]
    brighter = np.clip(pixels[4].astype(int) + 6, 0, 255).astype(np.uint8)
    table = pa.table({"image": [png(each) for each in [*pixels, brighter]]})

    made = do("clean", table, near_duplicates=0.9)

    assert list(reasons(made)) == [30]
    assert "like row 4" in reasons(made)[30]


def test_images_that_cannot_be_read_are_put_aside_and_counted() -> None:
    grey, red = np.full((4, 6), 100, np.uint8), np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 30
    table = pa.table({"image": [png(grey), png(grey + 1)[:40], None, png(red)]})

    described = do("profile", table).summary["columns"]["data"]["image"]
    made = do("clean", table, near_duplicates=0.9)

    assert (described["kind"], described["unreadable"], described["unreadable_rows"]) == ("image", 2, [1, 2])
    assert described["sizes"] == {"2x2x3": 1, "4x6": 1}
    assert (described["brightness"]["min"], described["brightness"]["max"]) == (10, 100)
    assert list(reasons(made)) == [1, 2]
    assert reasons(made)[2] == "image has no image"
    assert "no image that can be read" in reasons(made)[1]


def test_training_rows_that_the_test_has_too_are_put_aside_whatever_their_label() -> None:
    given = {
        "train": pa.table({"x": [1, 2, 3], "y": ["a", "a", "b"]}),
        "test": pa.table({"x": [2, 9], "y": ["b", "b"]}),
    }
    random = np.random.default_rng(0)
    rows = {name: with_column(each, "noise", random.random(each.num_rows)) for name, each in given.items()}
    assert do("clean", rows).summary["quarantined"] == {}

    parts_without = {"train": given["train"].drop_columns(["y"]), "test": given["test"].drop_columns(["y"])}
    made = do("clean", parts_without)

    assert reasons(made, "train") == {1: "leakage: is row 0 of test"}
    assert made.parts["test"].num_rows == 2


def test_wrong_labels_of_two_clear_groups_are_found() -> None:
    random = np.random.default_rng(3)
    x = np.concatenate([random.normal(0, 1, (60, 3)), random.normal(6, 1, (60, 3))])
    y = np.array(["a"] * 60 + ["b"] * 60)
    y[[5, 70]] = ["b", "a"]
    table = with_column(pa.table({"y": y}), "x", x)

    found = labels.suspects(table, "y", seed=0)

    assert sorted(found.rows.tolist()) == [5, 70]
    assert dict(zip(found.rows.tolist(), found.proposed, strict=True)) == {5: "a", 70: "b"}


def test_rows_with_a_backdoors_mark_stand_apart_from_their_class() -> None:
    random = np.random.default_rng(4)
    pixels = np.concatenate([random.normal(number, 1, (150, 6, 6)) for number in (0, 2)])
    y = np.array(["a"] * 150 + ["b"] * 150)
    marked = np.arange(150, 165)
    pixels[marked, :2, :2] += 12
    y[marked] = "a"

    made = do("clean", with_column(pa.table({"y": y}), "image", pixels), poisoned="y")

    assert set(marked.tolist()) <= set(reasons(made))
    assert len(reasons(made)) <= 20


@pytest.mark.parametrize("by", ["random", "stratified", "group", "time"])
def test_a_split_has_every_row_once_and_is_the_same_for_the_same_seed(by: str) -> None:
    table = people().append_column("id", pa.array(range(200)))
    column = {"random": "", "stratified": "label", "group": "town", "time": "id"}[by]

    one, other = (do("split", table, by=by, column=column, seed=5) for _ in range(2))

    assert sorted(each for part in one.parts.values() for each in part["id"].to_pylist()) == list(range(200))
    assert all(one.parts[name].equals(other.parts[name]) for name in one.parts)


def test_a_stratified_split_keeps_the_shares_and_a_grouped_one_keeps_groups_together() -> None:
    table = people(1000)
    parted = do("split", table, by="stratified", column="label").parts
    shares = [np.mean([each == "yes" for each in part["label"].to_pylist()]) for part in parted.values()]
    assert shares[0] == pytest.approx(shares[1], abs=0.005)

    grouped = do("split", table, by="group", column="town", parts={"train": 2, "test": 1}).parts
    assert not set(grouped["train"]["town"].to_pylist()) & set(grouped["test"]["town"].to_pylist())


def test_a_split_by_time_has_no_future_in_its_past() -> None:
    moments = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 4))
    parted = do("split", pa.table({"day": moments}), by="time", column="day").parts
    assert max(parted["train"]["day"].to_pylist()) < min(parted["test"]["day"].to_pylist())


@given(rows=st.integers(2, 300), share=st.floats(0.05, 0.95), seed=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_a_random_split_gives_each_part_its_share_to_the_row(rows: int, share: float, seed: int) -> None:
    chosen = split.shuffled(rows, np.array([share, 1 - share]), np.random.default_rng(seed))
    assert abs((chosen == 0).sum() - share * rows) <= 0.5 + 1e-9


def test_numbers_are_scaled_as_the_training_part_has_them_and_what_was_fitted_is_kept() -> None:
    given = {
        "train": pa.table({"x": [0.0, 2.0], "y": [1, 1]}),
        "test": pa.table({"x": [4.0, None], "y": [0, 0]}),
    }
    made = do("normalise", given, **{"except": ["y"]})
    assert made.parts["test"]["x"].to_pylist() == [3.0, None]
    assert made.files["normalise.json"]["columns"] == {"x": {"shift": 1.0, "scale": 1.0}}


@pytest.mark.parametrize("name", ["profile", "normalise", "encode", "split"])
def test_every_summary_can_be_shown_in_a_terminal(name: str) -> None:
    assert all(rows for rows, _ in summary_of(do(name, people()).summary))


def test_a_value_that_training_lacks_is_encoded_as_none() -> None:
    given = {"train": pa.table({"t": ["a", "b"]}), "test": pa.table({"t": ["b", "z"]})}
    made = do("encode", given)
    assert made.parts["test"].to_pydict() == {"t=a": [0, 0], "t=b": [1, 0]}
    assert made.summary["unknown_or_missing"] == {"t": 1}


def test_tokens_are_those_of_the_training_vocabulary() -> None:
    given = {"train": pa.table({"text": ["a b a", "b a"]}), "test": pa.table({"text": ["a z", ""]})}
    made = do("tokenise", given, length=3)
    assert array_of(made.parts["test"], "tokens").tolist() == [[2, 1, 0], [0, 0, 0]]
    assert made.files["vocabulary.json"] == {"a": 2, "b": 3}


def test_an_image_that_cannot_be_read_is_put_aside_as_it_is_and_the_others_are_of_one_size() -> None:
    table = pa.table(
        {
            "image": [
                png(np.zeros((5, 9), np.uint8)),
                b"\x89PNG\r\n\x1a\nnot",
                png(np.ones((3, 3, 3), np.uint8)),
            ]
        }
    )
    made = do("resize", table, height=4, width=6)
    assert array_of(made.parts["data"], "image").shape == (2, 4, 6, 3)
    assert made.quarantine["data"]["image"].to_pylist() == [b"\x89PNG\r\n\x1a\nnot"]


def test_smote_makes_every_class_as_large_as_the_largest_from_its_own_rows() -> None:
    table = pa.table({"x": [0.0, 1.0, 10.0, 11.0, 12.0, 13.0], "y": ["a", "a", "b", "b", "b", "b"]})
    made = do("augment", table, method="smote", target="y").parts["data"]
    assert made["y"].to_pylist().count("a") == made["y"].to_pylist().count("b") == 4
    assert all(
        0 <= x <= 1 for x, y in zip(made["x"].to_pylist(), made["y"].to_pylist(), strict=True) if y == "a"
    )


@pytest.mark.parametrize("method", ["images", "rand_augment"])
def test_images_are_changed_in_the_training_part_alone(method: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    given = {
        name: with_column(pa.table({"label": [0, 1, 2, 3]}), "image", pixels) for name in ("train", "test")
    }
    made = do("augment", given, method=method, copies=2)
    assert {name: part.num_rows for name, part in made.parts.items()} == {"train": 12, "test": 4}
    assert made.parts["train"]["_made"].to_pylist() == [0] * 4 + [1] * 8


def test_drift_is_seen_where_it_is_and_not_where_it_is_not() -> None:
    random = np.random.default_rng(4)

    def table(shift: float, names: list[str]) -> pa.Table:
        columns = {"same": random.normal(0, 1, 2000), "moved": random.normal(shift, 1, 2000)}
        made = pa.table({**columns, "town": random.choice(names, 2000)})
        return with_column(made, "vector", random.normal(shift, 1, (2000, 8)))

    made = do("drift", table(1, ["a", "a", "a", "b"]), baseline=table(0, ["a", "b"]), sample=200)

    assert made.summary["drifted"] == ["moved", "town", "vector"]
    assert made.summary["drift"]["moved"]["ks"] == pytest.approx(0.38, abs=0.05)


def test_rows_that_too_few_are_like_are_put_aside() -> None:
    table = pa.table({"town": ["a", "a", "a", "b"], "ill": ["x", "y", "x", "x"]})
    made = do("anonymity", table, columns=["town"], sensitive="ill", k=2, action="quarantine")
    assert (made.summary["k"], made.summary["l"], made.summary["anonymous"]) == (1, 1, False)
    assert list(reasons(made)) == [3]


@pytest.mark.parametrize("form", [Form.TABLE, Form.SHARDS, Form.NPY])
def test_what_is_written_is_read_again_and_is_the_same_bytes_each_time(form: Form, tmp_path: Path) -> None:
    pixels = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)
    made = {
        name: with_column(with_column(pa.table({}), "image", pixels), "label", np.arange(4))
        for name in ("train", "test")
    }
    for folder in ("a", "b"):
        parts.write(tmp_path / folder, made, form)
        parts.write_quarantine(tmp_path / folder, made)

    read = parts.read(tmp_path / "a")

    assert (set(read.parts), read.form) == ({"train", "test"}, form)
    assert np.array_equal(array_of(read.parts["test"], "image"), pixels)
    written = [
        {p.name + p.parent.name: p.read_bytes() for p in (tmp_path / f).rglob("*.*")} for f in ("a", "b")
    ]
    assert list(written[0].values()) == list(written[1].values())


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"a.csv": b"x,y\n1,2\n3\n"}, r"a\.csv.*row|a\.csv"),
        ({"a.parquet": b"PAR1nonsense"}, r"a\.parquet"),
        ({"train.jsonl": b'{"a": 1}\n{"a": '}, r"train\.jsonl"),
        ({"train/images.npy": b"\x93NUMPY\x01"}, r"images\.npy"),
        ({"cat/x.png": b"no image"}, r"cat/x\.png"),
        ({"a.npz": b"PK"}, r"a\.npz"),
        ({"readme.md": b"hello"}, "readme.md"),
        ({}, "no file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(files: dict[str, bytes], named: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidArgument, match=named):
        parts.read(tmp_path)


@given(st.binary(max_size=300), st.sampled_from(["csv", "tsv", "jsonl", "parquet", "arrow", "npz", "png"]))
@settings(max_examples=60, deadline=None)
def test_no_content_brings_a_reader_down(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, f"x.{suffix}").write_bytes(content)
        with suppress(AiosError):
            do("profile", dict(parts.read(Path(scratch)).parts))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("profile", {}),
        ("clean", {"missing": "mean", "outliers": "clip", "near_duplicates": 0.8}),
        ("clean", {"missing": "quarantine", "outliers": "quarantine"}),
        ("clean", {"missing": "mode"}),
        ("split", {}),
        ("normalise", {"method": "robust"}),
        ("encode", {}),
        ("anonymity", {"columns": ["bool", "list"]}),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_columns_of_every_kind_with_every_odd_value_go_through(
    name: str, given: dict[str, Any], tmp_path: Path
) -> None:
    table = pa.table(
        {
            "big": [1e308, -1e308, None, float("nan"), float("inf")],
            "null": pa.nulls(5),
            "bool": [True, False, None, True, True],
            "decimal": [Decimal("1.5"), None, Decimal("2.5"), Decimal("1.5"), Decimal("9.5")],
            "date": [date(2020, 1, day + 1) for day in range(5)],
            "list": [[1], [2, 3], None, [], [4]],
            "struct": [{"a": 1}, {"a": 2}, None, {"a": 3}, {"a": 4}],
            "bytes": [b"a", b"b", None, b"", b"x"],
            "whole": pa.array([2**63 - 1, -(2**63), 0, None, 5]),
            "text": ["a@b.ch", "", None, "x" * 10, "z"],
        }
    )
    for some in (table, table.slice(0, 1), {"train": table, "test": table.slice(2, 3)}):
        with suppress(AiosError):
            folder_of(do(name, some, **given), tmp_path, Form.TABLE)


@pytest.mark.parametrize("name", list(TYPES))
def test_every_type_has_a_module_that_can_be_run(name: str) -> None:
    assert callable(import_module(f"services.data.job.transforms.{name}").run)
    assert TYPES[name].summary.endswith(".")


def test_parameters_are_read_as_their_kind_with_every_default_filled_in() -> None:
    found = transforms.parameters_of("mask", {"columns": "a, b"})
    assert (found["columns"], found["style"]) == (("a", "b"), "label")
    wrong: dict[str, dict[str, Any]] = {
        "split": {"parts": {"train": 1}},
        "clean": {"near_duplicates": 2},
        "pii": {"kinds": ["emial"]},
        "profile": {"bins": True},
    }
    for name, given_ in wrong.items():
        with pytest.raises(InvalidArgument, match=f"parameters.{next(iter(given_))}"):
            transforms.parameters_of(name, given_)
