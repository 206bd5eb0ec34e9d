"""Secrets: closed files, made once, renewed in time, and accepted by the verifier of every service."""

import json
import stat
from pathlib import Path

import pytest

from aios.runtime.tokens import Verifier, mint, read_key, write_secret
from aios.stack import secrets
from aios.stack.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "home")
    made.make()
    secrets.prepare(made)
    return made


def test_only_the_owner_can_read_them(layout: Layout) -> None:
    assert stat.S_IMODE(layout.secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in layout.secrets.iterdir()} == {0o600}


def test_every_token_verifies_and_says_who_it_is(layout: Layout) -> None:
    verifier = Verifier(layout.secrets / "jwks.json")
    who = {file.stem: verifier.verify(file.read_text()) for file in layout.secrets.glob("*.token")}
    assert who["operator"].operator
    assert who["operator"].role == "admin"
    assert {name for name, principal in who.items() if principal.operator} == {"operator"}
    assert {who[name].role for name in secrets.SERVICES} == {"service"}
    assert who["agent"].role == "node"
    assert len({principal.token_id for principal in who.values()}) == len(who)


def test_preparing_again_changes_nothing(layout: Layout) -> None:
    before = {file.name: file.read_bytes() for file in layout.secrets.iterdir()}
    secrets.prepare(layout)
    assert {file.name: file.read_bytes() for file in layout.secrets.iterdir()} == before


def test_two_homes_share_no_secret(layout: Layout, tmp_path: Path) -> None:
    other = Layout(tmp_path / "other")
    other.make()
    secrets.prepare(other)
    for name in ("s3.json", "nats.json", "identity.pem", "operator.token"):
        assert (layout.secrets / name).read_bytes() != (other.secrets / name).read_bytes()
    assert len(json.loads((layout.secrets / "nats.json").read_text())["password"]) >= 32


@pytest.mark.parametrize("content", ["", "no token", None])
def test_a_token_near_its_end_or_broken_is_made_again(layout: Layout, content: str | None) -> None:
    path = layout.secrets / "data.token"
    key = read_key(layout.secrets / "identity.pem")
    claims = {"sub": "data", "jti": "old", "project": "default", "role": "service"}
    write_secret(
        path, mint(key, claims, ttl_seconds=secrets.RENEW_SECONDS / 2) if content is None else content
    )
    secrets.renew_tokens(layout)
    assert Verifier(layout.secrets / "jwks.json").verify(path.read_text()).token_id != "old"
