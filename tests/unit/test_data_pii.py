"""What people can be told by: found where it is, and only there; masked, and put under pseudonyms."""

from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.data import transforms
from services.data.job import pii
from services.data.job.parts import Form, Source
from services.data.job.transforms import mask, pseudonymise
from services.data.job.transforms import pii as scanning
from services.data.job.work import Result, Work
from services.data.keys import KeyMissing, ProjectKeys

KEY = bytes(range(32))


def do(module: Any, table: pa.Table, privacy: frozenset[str] = frozenset(), **given: Any) -> Result:
    name = module.__name__.rpartition(".")[2]
    source = Source({"data": table}, Form.TABLE)
    work = Work(transforms.parameters_of(name, given), source, key=lambda: KEY, privacy=privacy)
    made: Result = module.run(work)
    return made


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "write to jane.doe+x@mail.example.org today"),
        ("card", "paid with 4111 1111 1111 1111."),
        ("card", "5500005555555559"),
        ("iban", "to DE89 3704 0044 0532 0130 00 please"),
        ("iban", "GB82WEST12345698765432"),
        ("ip", "from 192.168.7.33 at noon"),
        ("ip", "from 2001:db8::8a2e:370:7334"),
        ("national_id_ch", "AHV 756.9217.0769.85"),
        ("national_id_us", "SSN 219-09-9999"),
        ("national_id_es", "DNI 12345678Z"),
        ("national_id_fr", "NIR 2 55 08 14 168 025 38"),
        ("national_id_it", "CF RSSMRA85T10A562S"),
        ("national_id_pl", "PESEL 44051401359"),
        ("national_id_de", "IdNr 86 095 742 719"),
        ("phone", "call +41 44 668 18 00"),
        ("phone", "call (415) 555-2671"),
    ],
)
def test_each_kind_is_found(kind: str, text: str) -> None:
    assert [each.kind for each in pii.find(text)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the check digit is wrong
        "DE89370400440532013001",
        "756.9217.0769.86",
        "000-12-3456",
        "12345678A",
        "44051401358",
        "release 2024-05-17 12:30:00",
        "999.999.1.1 and 1.2.3",
        "0.123456789012345",
        "a@b and user@host",
        "in 1999 there were 12345678 of them",
        "version 3.11.7, build 20240517",
    ],
)
def test_what_only_looks_like_it_is_not_found(text: str) -> None:
    assert pii.find(text) == []


@given(st.text(max_size=200))
def test_any_text_can_be_looked_at_and_what_is_found_lies_in_it_in_order(text: str) -> None:
    found = pii.find(text)
    assert all(0 <= each.start < each.end <= len(text) for each in found)
    assert all(one.end <= other.start for one, other in pairwise(found))


@given(st.text(alphabet="0123456789 -.+()/@:abAB", max_size=2_000))
def test_no_text_takes_long(text: str) -> None:
    pii.find(text * 5)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("first_name", "name"),
        ("EmailAddress", "email"),
        ("dob", "birth_date"),
        ("filename", ""),
        ("price", ""),
    ],
)
def test_a_columns_name_speaks_of_people(column: str, kind: str) -> None:
    assert pii.named(column) == kind


def test_findings_say_where_and_how_many_and_show_only_the_form() -> None:
    table = pa.table({"note": ["ask jane@example.org", "nothing", None], "last_name": ["Doe", "Roe", "Poe"]})

    made = do(scanning, table)

    assert made.summary["findings"]["data"]["note"]["email"] == {
        "rows": 1,
        "share": pytest.approx(1 / 3),
        "by": "values",
        "example": "aaaa@aaaaaaa.aaa",
    }
    assert made.summary["flags"] == ["pii:email", "pii:name"]
    assert set(made.privacy or ()) == {"pii:email", "pii:name"}
    assert "jane" not in made.page()


def test_masked_texts_hold_nothing_any_more_and_the_flags_say_what_is_left() -> None:
    table = pa.table({"note": ["jane@example.org, 4111 1111 1111 1111", "x"], "last_name": ["Doe", "Roe"]})

    made = do(mask, table, privacy=frozenset({"pii:email", "pii:name", "licensed"}))

    assert made.parts["data"]["note"].to_pylist() == ["[EMAIL], [CARD]", "x"]
    assert set(made.privacy or ()) == {"pii:name", "licensed", "masked"}
    assert set(do(mask, table, drop=["last_name"]).privacy or ()) == {"masked"}
    last4 = do(mask, table, style="last4").parts["data"]["note"][0].as_py()
    assert last4.endswith("1111")
    assert "jane" not in last4


def test_the_same_value_has_the_same_pseudonym_everywhere_and_none_without_the_key() -> None:
    table = pa.table({"id": [7, 8, None, 7], "note": ["by jane@example.org", "x", None, "y"]})

    made = do(pseudonymise, table, columns=["id"], texts=["note"]).parts["data"]

    ids = made["id"].to_pylist()
    assert ids[0] == ids[3] == pseudonymise.pseudonym(KEY, "7")
    assert (ids[0] != ids[1], ids[2]) == (True, None)
    assert made["note"][0].as_py() == f"by {pseudonymise.pseudonym(KEY, 'jane@example.org')}"
    assert pseudonymise.pseudonym(b"other" * 8, "7") != ids[0]


def test_each_project_and_key_name_has_a_secret_of_its_own(tmp_path: Any) -> None:
    (tmp_path / "key").write_text("s" * 43)
    keys = ProjectKeys(tmp_path / "key")
    assert keys.derive("a", "default") == keys.derive("a", "default")
    assert len({keys.derive("a", "x"), keys.derive("a", "y"), keys.derive("b", "x")}) == 3
    with pytest.raises(KeyMissing):
        ProjectKeys(tmp_path / "none").derive("a", "x")
