"""A script with the SDK and no platform: one folder holds all of it."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

import aios.train
from aios.common.v1 import tensor_pb2
from aios.errors import DataLoss, InvalidArgument
from aios.train import Run
from aios.train.data import write_shards


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the run lives; nothing of the environment says that there is a platform."""
    for name in ("AIOS_JOB", "AIOS_EPOCH", "AIOS_HPARAMS", "AIOS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "run"


def train(folder: Path, to: int, *, stop_at: int = 0, fail_at: int = 0) -> list[int]:
    """A script: counts, saves every third step, and says which steps it made."""
    made = []
    with aios.train.init({"scale": 2}, folder=folder) as run:
        checkpoint = run.restore()
        total = int((checkpoint.folder / "total").read_text()) if checkpoint else 0
        for step in range((checkpoint.step if checkpoint else 0) + 1, to + 1):
            total += step * run.hparams["scale"]
            made.append(step)
            run.report(step, total=total)
            if step == fail_at:
                raise RuntimeError
            if step % 3 == 0 or step == stop_at:
                with run.save(step) as saving:
                    (saving / "total").write_text(str(total))
            if step == stop_at:
                run.leave()
        result = run.folder("result")
        (result / "model.onnx").write_text(str(total))
        run.complete(result, tensor_pb2.Signature(max_batch_size=4), {"total": total})
    return made


def curve(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["total"]) for line in lines]


def test_a_run_that_failed_goes_on_from_its_checkpoint_and_its_curve_never_doubles_back(folder: Path) -> None:
    with pytest.raises(RuntimeError):
        train(folder, 8, fail_at=5)
    assert [step for step, _ in curve(folder)] == [1, 2, 3, 4, 5]
    assert train(folder, 8) == [4, 5, 6, 7, 8]
    assert curve(folder) == [(step, step * (step + 1)) for step in range(1, 9)]
    assert (folder / "model" / "model.onnx").read_text() == "72"
    assert json.loads((folder / "model.json").read_text())["signature"] == {"maxBatchSize": 4}


def test_a_run_that_was_told_to_leave_ends_as_one_that_a_signal_ended(folder: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        train(folder, 8, stop_at=4)
    assert ended.value.code == 143
    assert train(folder, 8) == [5, 6, 7, 8]


def test_a_completed_run_is_followed_by_a_new_one(folder: Path) -> None:
    assert train(folder, 4) == train(folder, 4) == [1, 2, 3, 4]


def test_a_checkpoint_that_is_damaged_is_refused_and_one_that_is_not_whole_is_none(folder: Path) -> None:
    with pytest.raises(RuntimeError):
        train(folder, 8, fail_at=7)
    newest = folder / "checkpoints" / "000000000006"
    (newest / "total").write_text("43")
    with pytest.raises(DataLoss, match="not what was saved"):
        train(folder, 8)
    (newest / "MANIFEST.json").unlink()
    assert train(folder, 8) == [4, 5, 6, 7, 8]


def test_what_is_said_from_outside_replaces_what_the_script_uses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_HPARAMS", '{"lr": 1, "layers": [2.0]}')
    monkeypatch.setenv("AIOS_DATA_DIR", str(tmp_path))
    with aios.train.init({"lr": 0.5, "seed": 1}, seed=3, folder=folder) as run:
        assert (dict(run.hparams), run.seed) == ({"lr": 1, "seed": 1, "layers": [2]}, 3)
        assert run.files() == tmp_path
        with pytest.raises(InvalidArgument, match="AIOS_DATA_MORE"):
            run.files("more")


def test_a_part_of_the_data_is_read_on_where_the_checkpoint_was(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "data"
    write_shards(given / "train", {"x": np.arange(40)}, shard_bytes=80)
    write_shards(given / "test", {"x": np.arange(100, 110)})
    whole: list[int] = []
    read: list[int] = []
    with aios.train.init(folder=folder, seed=3, data=given) as run:
        for batch in run.dataset("train").batches(8):
            whole += [*batch["x"]]
        assert [*next(run.dataset("test", shuffle=False).batches(10))["x"]] == [*range(100, 110)]
        records = run.dataset("train")
        for batch in records.batches(8):
            read += [*batch["x"]]
            records.commit(8)
            if len(read) == 16:
                break
        with run.save(2) as saving:
            (saving / "data.json").write_text(json.dumps(records.state()))
    with aios.train.init(folder=folder, seed=3, data=given) as run:
        checkpoint = run.restore()
        assert checkpoint is not None
        records = run.dataset("train")
        records.restore(json.loads((checkpoint.folder / "data.json").read_text()))
        for batch in records.batches(8):
            read += [*batch["x"]]
    assert read == whole
    assert sorted(whole) == [*range(40)]


def test_tables_are_parts_too_and_the_environment_goes_before_the_script(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("x,y\n1,a\n2,b\n3,c\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "train.csv").write_text("x,y\n7,z\n")
    with aios.train.init(folder=folder, data={"": rows, "more": tmp_path / "more"}) as run:
        batch = next(run.dataset(shuffle=False).batches(3))
        assert ([*batch["x"]], batch["y"]) == ([1, 2, 3], ["a", "b", "c"])
        assert next(run.dataset("train", name="more").batches(1))["y"] == ["z"]
    monkeypatch.setenv("AIOS_DATA_DIR", str(tmp_path / "more"))
    with aios.train.init(folder=folder, data=rows) as run:
        assert len(run.dataset("train")) == 1


def test_a_part_that_is_not_there_is_told_with_those_that_are(folder: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "data" / "train", {"x": np.arange(4)})
    (tmp_path / "empty").mkdir()
    with aios.train.init(folder=folder, data={"": tmp_path / "data", "empty": tmp_path / "empty"}) as run:
        with pytest.raises(InvalidArgument, match=r"'valid' can be read; the dataset has train"):
            run.dataset("valid")
        with pytest.raises(InvalidArgument, match=r"no folder of \.arrow shards"):
            run.dataset("train", name="empty")
    with aios.train.init(folder=folder) as run, pytest.raises(InvalidArgument, match="AIOS_DATA_DIR"):
        run.dataset("train")


def test_no_number_is_left_out_with_a_word_and_a_bad_name_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with aios.train.init(folder=folder) as run:
        run.report(1, loss=float("nan"), total=1)
        run.report(2, loss=float("inf"), total=3)
        with pytest.raises(InvalidArgument, match="letters"):
            run.report(3, **{"a\nb": 1})
        with pytest.raises(InvalidArgument, match="negative"):
            run.report(-1, total=1)
    assert curve(folder) == [(1, 1), (2, 3)]
    assert capsys.readouterr().err.count("not stored") == 1


def test_a_block_that_raises_saves_nothing(folder: Path) -> None:
    with aios.train.init(folder=folder) as run:
        with pytest.raises(RuntimeError), run.save(1):
            raise RuntimeError
        assert run.restore() is None


def test_a_checkpoint_may_be_saved_while_another_thread_reports(folder: Path) -> None:
    with aios.train.init(folder=folder) as run:
        thread = threading.Thread(target=_save, args=(run,))
        thread.start()
        for step in range(100):
            run.report(step, total=step)
        thread.join()
        found = run.restore()
    assert found is not None
    assert found.step == 7


def _save(run: Run) -> None:
    with run.save(7) as folder:
        (folder / "x").touch()
