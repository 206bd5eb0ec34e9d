"""Where the platform is and who calls it."""

import json
import stat
from pathlib import Path

import pytest

from aios.client import credentials
from aios.client.credentials import resolve
from aios.errors import InvalidArgument, Unauthenticated
from aios.runtime.tokens import mint, new_key


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"AIOS_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def stack(env: dict[str, str]) -> str:
    home = Path(env["AIOS_HOME"])
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "operator.token").write_text("the operator's\n")
    (home / "stack.json").write_text(json.dumps({"address": "http://127.0.0.1:31000"}))
    return "http://127.0.0.1:31000"


def test_on_the_machine_of_the_stack_nothing_needs_to_be_said(env: dict[str, str], stack: str) -> None:
    found = resolve(env=env)
    assert (found.address, found.project, found.current_token()) == (stack, "default", "the operator's")
    assert found.target == "127.0.0.1:31000"
    assert found.on_this_machine
    assert not found.secure


def test_arguments_come_before_the_environment_before_the_login_before_the_stack(
    env: dict[str, str], stack: str
) -> None:
    credentials.save(credentials.path(env), "https://aios.example.org", "saved", "team")
    found = resolve(env=env)
    assert (found.address, found.project, found.current_token()) == (
        "https://aios.example.org",
        "team",
        "saved",
    )
    assert found.target == "aios.example.org:443"
    given = {**env, "AIOS_ADDRESS": "http://10.0.0.1:8080", "AIOS_TOKEN": "given", "AIOS_PROJECT": "mine"}
    found = resolve(env=given)
    assert (found.address, found.project, found.current_token()) == ("http://10.0.0.1:8080", "mine", "given")
    found = resolve("localhost:9", "argued", "other", env=given)
    assert (found.address, found.project, found.current_token()) == ("http://localhost:9", "other", "argued")


def test_a_token_for_one_address_is_never_sent_to_another(env: dict[str, str], stack: str) -> None:
    credentials.save(credentials.path(env), "https://aios.example.org", "saved", "team")
    with pytest.raises(Unauthenticated, match="aios login http://elsewhere:1"):
        resolve("http://elsewhere:1", env=env).current_token()


def test_a_token_file_is_read_at_each_use(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "token"
    found = resolve(env={**env, "AIOS_TOKEN_FILE": str(file)})
    with pytest.raises(Unauthenticated, match="Cannot read"):
        found.current_token()
    file.write_text("one\n")
    assert found.current_token() == "one"
    file.write_text("two\n")
    assert found.current_token() == "two"


def test_the_project_is_the_one_the_token_names(env: dict[str, str]) -> None:
    claims = {"sub": "ada", "jti": "1", "project": "vision", "role": "editor"}
    token = mint(new_key(), claims, ttl_seconds=60)
    assert resolve(token=token, env=env).project == "vision"
    assert resolve(token="no.jwt", env=env).project == "default"


def test_what_is_saved_is_closed_to_others_and_keeps_other_addresses(env: dict[str, str]) -> None:
    file = credentials.path(env)
    credentials.save(file, "http://a:1", "one", "p")
    credentials.save(file, "http://b:2", "two", "q")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert resolve("http://a:1", env=env).current_token() == "one"
    assert resolve(env=env).address == "http://b:2"


@pytest.mark.parametrize("address", ["ftp://x", "http://", "://"])
def test_an_address_that_is_none_is_refused(env: dict[str, str], address: str) -> None:
    with pytest.raises(InvalidArgument, match="address"):
        resolve(address, env=env)


def test_a_damaged_file_says_what_to_do(env: dict[str, str]) -> None:
    file = credentials.path(env)
    file.parent.mkdir(parents=True)
    file.write_text("{")
    with pytest.raises(InvalidArgument, match="delete it"):
        resolve(env=env)


def test_a_token_is_not_shown() -> None:
    assert "hush" not in repr(resolve("http://x", "hush", env={}))
