"""The command line itself: help, suggestions, exit codes, forms of the answer."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from aios.cli import output
from aios.cli.root import COMMANDS, Root, advise, main, root
from aios.errors import AiosError, Internal, NotFound, Unauthenticated, Unavailable
from tests.golden import command_help


def aios(*arguments: str) -> Result:
    return CliRunner().invoke(root, arguments)


def walk() -> list[tuple[str, ...]]:
    """Every command, by its path."""
    found: list[tuple[str, ...]] = []
    group = root
    assert isinstance(group, Root)
    for name in COMMANDS:
        found += below((name,), group.get_command(None, name))  # type: ignore[arg-type]
    return found


def below(path: tuple[str, ...], command: click.Command | None) -> list[tuple[str, ...]]:
    """The commands of a group, and of the groups in it; the command where it is none."""
    verbs: dict[str, click.Command] = getattr(command, "commands", {})
    return [each for verb, one in verbs.items() for each in below((*path, verb), one)] or [path]


def test_help_answers_at_once_and_names_every_command() -> None:
    best, out = 9.0, ""
    for _ in range(3):  # the fastest says what the code costs; the others, what else the machine does
        began = time.monotonic()
        out = subprocess.run(
            [sys.executable, "-m", "aios.cli", "--help"], capture_output=True, text=True, check=True
        ).stdout
        best = min(best, time.monotonic() - began)
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert best < 0.6


def test_help_imports_no_command_and_no_transport() -> None:
    program = "import sys, aios.cli\ntry: aios.cli.main(['--help'])\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stderr.split()
    assert not {"grpc", "numpy", "rich", "httpx", "yaml", "aios.client"} & set(loaded)


@pytest.mark.parametrize("path", walk(), ids=" ".join)
def test_every_command_has_help_and_takes_the_three_forms(path: tuple[str, ...]) -> None:
    result = aios(*path, "--help")
    assert result.exit_code == 0
    if path == ("edge", "agent"):  # it runs on a device, asks no platform and prints no answer
        return
    assert "[table|json|yaml" in result.output
    assert "--json" in result.output


def test_the_help_is_what_was_read_and_recorded() -> None:
    """When it should change: `python -m tests.golden.command_help`, then read the difference."""
    assert command_help.texts() == command_help.RECORDED.read_text()


def test_no_command_is_without_a_line_of_help() -> None:
    for path, command in command_help.commands(root, ("aios",)):
        assert command.help, path
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, (path, option.name)


@pytest.mark.parametrize(
    "noun", ["dataset", "model", "deployment", "label", "run", "transform", "sweep", "job"]
)
def test_every_noun_lists_and_gets(noun: str) -> None:
    assert {"list", "get"} <= {verb for first, *rest in walk() if first == noun for verb in rest}


@pytest.mark.parametrize(
    "path",
    [
        ("run", "ls"),
        ("run", "create"),
        ("dataset", "rm"),
        ("model", "remove"),
        ("token", "delete"),
        ("job", "stop"),
    ],
    ids=" ".join,
)
def test_the_usual_synonym_of_a_verb_is_understood(path: tuple[str, str]) -> None:
    result = aios(*path, "--help")
    assert result.exit_code == 0, result.output


def test_a_verb_that_could_be_two_is_not_guessed() -> None:
    assert "There are:" in aios("label", "push").output  # it has create and submit


def complete(*words: str) -> list[str]:
    completed = ShellComplete(root, {}, "aios", "_AIOS_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [item.value for item in completed]


def test_the_shell_completes_commands_verbs_and_options() -> None:
    assert complete("dep") == ["deploy", "deployment"]
    assert complete("run", "s") == ["submit"]
    assert "--output" in complete("run", "list", "--o")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    assert "_AIOS_COMPLETE" in aios("completion", shell).output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "--help"), 0),
        (("run", "submit"), 2),
        (("job", "create"), 2),
        (("job", "create", "--env", "X", "--", "true"), 2),
        (("job", "create", "--cpu", "much", "--", "true"), 1),
        (("run", "list", "-n", "0"), 2),
        (("-p", "x", "run"), 2),
        (("run", "frob"), 2),
        (("run", "get", "a/b/c"), 1),
    ],
)
def test_exit_codes_are_exact(arguments: tuple[str, ...], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code


def test_a_long_reason_is_shown_in_a_list_by_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(root):
        output.emit_list([rf"no module\n{'x' * 500}"], {"WHY": str}, none="")
    assert "no module …" in capsys.readouterr().out


def test_nothing_is_coloured_where_no_color_is_asked_for() -> None:
    env = {"NO_COLOR": "1", "FORCE_COLOR": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-m", "aios.cli", "doctor"], capture_output=True, text=True, env=env, check=False
    )
    assert "\x1b[3" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("runn",), "'run'"),
        (("dataste", "push"), "'dataset'"),
        (("run", "sumbit"), "'submit'"),
        (("model", "verions"), "'versions'"),
    ],
)
def test_a_mistyped_command_is_met_with_the_likely_one(arguments: tuple[str, ...], suggestion: str) -> None:
    result = aios(*arguments)
    assert result.exit_code == 2
    assert f"Did you mean {suggestion}?" in result.output


def test_a_noun_alone_lists() -> None:
    for noun in ("run", "dataset", "model", "deployment", "job", "node", "token", "project", "events"):
        result = aios(noun, "--address", "http://127.0.0.1:1", "--json")
        assert isinstance(result.exception, AiosError), noun


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Unavailable("gone"), "aios up"),
        (Unauthenticated("who?"), "aios login"),
        (Internal("x"), "aios logs"),
        (NotFound("no such run"), ""),
        (NotFound("projects/default/runs/x does not exist."), "`aios run list`"),
        (Unavailable("Deployment web has no revision that serves yet."), "aios deployment status web"),
        (Unavailable("run `aios up` first"), ""),
    ],
)
def test_an_error_says_what_to_do_next(error: AiosError, words: str) -> None:
    assert words in advise(error)


def test_a_failure_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aios.cli", "run", "list"]
    env = {"AIOS_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "AIOS_TOKEN": "x",
           "AIOS_ADDRESS": "http://127.0.0.1:1"}  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert "aios up" in done.stderr


def test_a_run_file_with_a_typo_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("recipe: image_classifier\ndatset: digits\n")
    result = aios("run", "submit", "-f", str(file), "--address", "http://127.0.0.1:1")
    assert "datset: unknown key; did you mean dataset?" in str(result.exception)


@pytest.mark.parametrize("text", ["- a\n- b\n", "recipe: [", ""])
def test_a_run_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    result = aios("run", "submit", "-f", str(file))
    assert str(file) in str(result.exception)


def test_set_must_name_a_key(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("recipe: x\n")
    assert "hyperparameters.lr=0.1" in str(aios("run", "submit", "-f", str(file), "--set", "oops").exception)


def test_the_doctors_answer_has_three_forms() -> None:
    as_json: list[dict[str, Any]] = json.loads(aios("doctor", "--json").output)
    as_yaml: list[dict[str, Any]] = yaml.safe_load(aios("doctor", "-o", "yaml").output)
    assert [one["what"] for one in as_json] == [one["what"] for one in as_yaml]
    assert "Python" in aios("doctor").output
