"""The compose files as they are written: what needs no engine to be seen."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from aios.stack.distribute import NEEDS

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
FILES = sorted(FOLDER.glob("compose*.yaml"))
BASE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SETTING = re.compile(r"\$\{([A-Z0-9_]+)(:-)?")
KNOWN = dict(re.findall(r"^(?:# )?([A-Z0-9_]+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE))
SECRETS = "-secrets"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_setting_is_in_the_example(file: Path) -> None:
    asked = SETTING.findall(file.read_text())
    assert {name for name, _ in asked} <= KNOWN.keys()
    given = {line.partition("=")[0] for line in (FOLDER / ".env.example").read_text().splitlines()}
    assert {name for name, default in asked if not default} <= given


def test_every_image_from_elsewhere_is_named_by_digest() -> None:
    images = {name: value for name, value in KNOWN.items() if name.endswith("_IMAGE") and value}
    assert images
    assert [name for name, value in images.items() if not re.search(r"@sha256:[0-9a-f]{64}$", value)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_container_is_confined_and_comes_back(file: Path) -> None:
    for name, service in yaml.safe_load(file.read_text())["services"].items():
        if "image" not in service:
            continue  # more of one that another file has
        assert name == "secrets" or service["restart"] == "unless-stopped", name
        # PostgreSQL's image begins as root, to own its volume.
        assert name == "postgres" or (service["read_only"] and service["cap_drop"] == ["ALL"]), name
        assert "no-new-privileges:true" in service.get("security_opt", []) or name == "postgres", name


def test_every_container_reads_the_secrets_that_are_its_own() -> None:
    """A mistyped volume would be an empty one."""
    names = {volume for file in FILES for volume in yaml.safe_load(file.read_text()).get("volumes", {})}
    assert {name.removesuffix(SECRETS) for name in names if name.endswith(SECRETS)} == set(NEEDS)
    for name, service in BASE["services"].items():
        held = {volume for volume in _mounted(service) if volume.endswith(SECRETS)}
        assert name == "secrets" or held <= {f"{name.removeprefix('serving-')}{SECRETS}"}, name


def _mounted(service: Mapping[str, Any]) -> list[str]:
    return [volume.partition(":")[0] for volume in service.get("volumes", [])]
