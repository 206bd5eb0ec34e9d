"""A command as a run: what it is told, what is carried away, how it ends."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from aios import code
from aios.common.v1 import tensor_pb2
from aios.errors import InvalidArgument
from aios.train import Checkpoint, Run
from aios.trainer.v1 import run_pb2
from services.trainer.job import command, folders


class Recorder:
    """A home that remembers."""

    def __init__(self, folder: Path, spec: run_pb2.RunSpec, restored: Checkpoint | None = None) -> None:
        self.name = "projects/p/runs/r1"
        self.spec = spec
        self.scratch = folder / "scratch"
        self.restored = restored
        self.points: list[tuple[int, dict[str, float]]] = []
        self.total = 0
        self.saved: list[tuple[int, dict[str, str]]] = []
        self.model: tensor_pb2.Signature | None = None
        self.outputs: dict[str, str] | None = None

    def dataset(self, name: str, folder: Path) -> Path:
        return self.scratch.parent / name

    def base_model(self, folder: Path) -> tuple[Path, tensor_pb2.Signature]:
        raise NotImplementedError

    def restore(self) -> Checkpoint | None:
        return self.restored

    def save(self, step: int, folder: Path) -> None:
        self.saved.append((step, contents(folder)))

    def put(self, step: int, metrics: Mapping[str, float], progress: run_pb2.Progress) -> None:
        self.total = progress.total_steps
        if metrics:
            self.points.append((step, dict(metrics)))

    def minds_stops(self) -> None: ...

    def flush(self) -> None: ...

    def complete(
        self,
        model: Path | None,
        signature: tensor_pb2.Signature | None,
        metrics: Mapping[str, float],
        outputs: Path | None,
        card: str = "",
        rejected: str = "",
    ) -> str:
        if self.spec.model and model is None:
            raise InvalidArgument.of("model", "send what it made")
        self.model, self.outputs = signature, None if outputs is None else contents(outputs)
        return "v1" if model else ""

    def close(self) -> None: ...


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOS_EPOCH", "2")
    monkeypatch.setenv("AIOS_TELEMETRY", "false")


def python(text: str) -> list[str]:
    return [sys.executable, "-c", dedent(text)]


def run(
    folder: Path, words: list[str], restored: Checkpoint | None = None, **spec: Any
) -> tuple[int, Recorder, threading.Event]:
    home = Recorder(folder, run_pb2.RunSpec(command=words, **spec), restored)
    stop = threading.Event()
    return command.train(Run(home, stop, {})), home, stop


def test_a_command_is_told_all_it_needs_by_its_environment(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "train.py").write_text(
        "import json, os, pathlib\n"
        "pathlib.Path(os.environ['AIOS_OUTPUT_DIR'], 'env.json').write_text(json.dumps(dict(os.environ)))\n"
        "open(os.environ['AIOS_DATA_DIR'] + '/rows').read(), open(os.environ['AIOS_DATA_MORE'] + '/rows').read()\n"
    )
    for name in ("dir", "more", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows").touch()
    code.pack(tree, tmp_path / "code" / code.ARCHIVE)
    spec = run_pb2.RunSpec(
        command=["python", "train.py"],
        dataset="datasets/d",
        datasets={"more": "datasets/m"},
        code="c",
        seed=7,
        environment={"MODE": "fast"},
    )
    spec.hyperparameters.update({"lr": 0.1, "layers": [3, 4]})
    home = Recorder(tmp_path, spec)
    assert command.train(Run(home, threading.Event(), {})) == 0
    assert home.outputs is not None
    told = json.loads(home.outputs["env.json"])
    assert (told["AIOS_RUN_ID"], told["AIOS_RUN_ATTEMPT"], told["AIOS_SEED"]) == ("r1", "2", "7")
    assert json.loads(told["AIOS_HPARAMS"]) == {"lr": 0.1, "layers": [3, 4]}
    assert told["MODE"] == "fast"


def test_an_interpreter_without_the_platform_signs_as_mlflow_with_the_token_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    monkeypatch.setenv("AIOS_TOKEN_FILE", str(token))
    script = f"""
        import importlib.util, pathlib, sys, types
        from importlib.metadata import entry_points
        assert importlib.util.find_spec("aios") is None, sys.path
        [found] = entry_points(group="mlflow.request_auth_provider")
        provider = found.load()()
        assert provider.get_name() == found.name == "aios"
        request = types.SimpleNamespace(headers={{}})
        signed = [provider.get_auth()(request).headers["Authorization"]]
        pathlib.Path({str(token)!r}).write_text("second")
        signed.append(provider.get_auth()(request).headers["Authorization"])
        assert signed == ["Bearer first", "Bearer second"], signed
        import mine
    """
    (tmp_path / "mine.py").touch()
    words = [sys.executable, "-S", *python(script)[1:]]  # without the packages of this interpreter
    made = run(tmp_path, words, requirements="r", environment={"PYTHONPATH": str(tmp_path)})
    assert made[0] == 0


@pytest.mark.parametrize("exit_code", [0, 1, 3, 125, 143, 255])
def test_its_exit_code_is_the_runs_own(tmp_path: Path, exit_code: int) -> None:
    assert run(tmp_path, ["sh", "-c", f"exit {exit_code}"])[0] == exit_code


def test_a_signal_that_ends_it_and_a_program_that_is_none_end_it_as_in_a_shell(tmp_path: Path) -> None:
    assert run(tmp_path, ["sh", "-c", "kill -9 $$"])[0] == 137
    assert run(tmp_path, ["no-such-program"])[0] == 127
    assert run(tmp_path, ["/etc/passwd"])[0] == 126


def test_metrics_are_read_as_lines_and_what_is_none_is_told_with_its_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = """
        import os
        with open(os.environ["AIOS_METRICS_FILE"], "a") as file:
            file.write('{"step": 1, "total_steps": 9, "loss": 0.5, "note": "x"}\\n\\nnonsense\\n{"loss": 1}\\n')
            file.write('{"step": 2, "loss": NaN, "self": 1, "step size": 2}\\n[1]\\n{"step": 3, "loss": 0.25}')
    """
    status, home, _ = run(tmp_path, python(script))
    assert status == 0
    assert home.points == [(1, {"loss": 0.5}), (2, {"self": 1.0, "step size": 2.0}), (3, {"loss": 0.25})]
    assert home.total == 9
    said = capfd.readouterr().err
    for part in (
        "line 1 ",
        "note",
        "line 3 of AIOS_METRICS_FILE is no JSON",
        "line 4 ",
        "loss is nan at step 2",
    ):
        assert part in said


def test_scalars_that_it_logs_for_tensorboard_are_metrics(tmp_path: Path) -> None:
    script = """
        import os, struct
        os.makedirs("runs/one")
        event = bytes.fromhex("1007") + bytes([42, 13, 10, 11, 10, 4]) + b"loss" + bytes([21]) + struct.pack("<f", 0.5)
        with open("runs/one/events.out.tfevents.1.host", "wb") as file:
            file.write(struct.pack("<Q", len(event)) + b"crc1" + event + b"crc2")
    """
    status, home, _ = run(tmp_path, python(script))
    assert (status, home.points) == (0, [(7, {"loss": 0.5})])


def test_what_it_left_when_asked_to_stop_is_its_checkpoint(tmp_path: Path) -> None:
    script = """
        import os, pathlib, signal, sys
        folder = pathlib.Path(os.environ["AIOS_CHECKPOINT_DIR"])
        def save(*_):
            (folder / "state").write_text("41")
            sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        with open(os.environ["AIOS_METRICS_FILE"], "a") as file:
            file.write('{"step": 41, "loss": 1}\\n')
        pathlib.Path(os.environ["AIOS_OUTPUT_DIR"], "ready").touch()
        while True:
            signal.pause()
    """
    home = Recorder(tmp_path, run_pb2.RunSpec(command=python(script)))
    stop = threading.Event()
    ask_once(lambda: list(home.scratch.glob("**/ready")), stop.set)
    assert command.train(Run(home, stop, {})) == 143
    assert home.saved == [(41, {"state": "41"})]


def test_a_checkpoint_is_there_again_and_one_that_did_not_change_is_not_kept_twice(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "state").write_text("40")
    script = """
        import os, pathlib
        state = pathlib.Path(os.environ["AIOS_CHECKPOINT_DIR"], "state")
        pathlib.Path(os.environ["AIOS_OUTPUT_DIR"], "seen").write_text(state.read_text())
        raise SystemExit(5)
    """
    status, home, _ = run(tmp_path, python(script), Checkpoint(40, kept, "c"))
    assert (status, home.saved) == (5, [])


def test_a_checkpoint_is_kept_while_it_runs_once_nobody_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "SETTLED_SECONDS", 0.3)
    monkeypatch.setattr(folders, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(folders, "BETWEEN_SECONDS", 0.1)
    script = """
        import os, pathlib, signal, time
        folder = pathlib.Path(os.environ["AIOS_CHECKPOINT_DIR"])
        with open(folder / "torn", "w") as torn:
            torn.write("half")
            torn.flush()
            time.sleep(0.9)
            torn.write(" and whole")
        signal.pause()
    """
    home = Recorder(tmp_path, run_pb2.RunSpec(command=python(script)))
    stop = threading.Event()
    ask_once(lambda: home.saved, stop.set)
    assert command.train(Run(home, stop, {})) == 128 + signal.SIGTERM
    assert home.saved == [(0, {"torn": "half and whole"})]


def test_what_it_started_and_left_behind_is_ended(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    status, _, _ = run(tmp_path, ["sh", "-c", f"sleep 60 & echo $! > {marker}"])
    assert status == 0
    pid = int(marker.read_text())
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_model_that_was_promised_and_is_not_there_fails_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, ["true"], model="m")[0] == 1
    assert "holds no model.onnx" in capfd.readouterr().err


def test_a_model_says_itself_what_it_takes_and_gives(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("Identity", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y])), str(tmp_path / "model.onnx"))
    status, home, _ = run(tmp_path, ["sh", "-c", f"cp {tmp_path}/model.onnx $AIOS_OUTPUT_DIR"], model="m")
    assert status == 0
    assert home.model is not None
    assert [(each.name, each.datatype, list(each.shape)) for each in home.model.inputs] == [
        ("x", "FP32", [4])
    ]
    assert home.model.max_batch_size == 64


def ask_once(condition: Callable[[], Any], ask: Callable[[], None]) -> None:
    """Do something as soon as a condition holds, meanwhile."""

    def wait() -> None:
        until = time.monotonic() + 20
        while not condition() and time.monotonic() < until:
            time.sleep(0.02)
        ask()

    threading.Thread(target=wait, daemon=True).start()
