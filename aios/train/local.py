"""A run without a platform: everything in one folder.

metrics.jsonl            a line a report: {"step": 10, "loss": 0.3}
checkpoints/{step}/      as saved, with MANIFEST.json (digests) written last: without it, it is none
model/ outputs/          the result, with model.json: what the model takes and gives
completed                the next run in this folder starts anew
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.json_format import MessageToDict, ParseDict

from aios import transfer
from aios.common.v1 import tensor_pb2
from aios.errors import DataLoss, InvalidArgument
from aios.train.home import Checkpoint
from aios.trainer.v1 import run_pb2

MANIFEST = "MANIFEST.json"
STEP_DIGITS = 12  # names sort as their steps do


class Local:
    """A run in a folder, which is made."""

    def __init__(self, folder: Path, spec: run_pb2.RunSpec, datasets: Mapping[str, Path]) -> None:
        self.name = str(folder)
        self.spec = spec
        self.scratch = folder / "scratch"
        self._folder = folder
        self._datasets = datasets
        self._checkpoints = folder / "checkpoints"
        if (folder / "completed").exists():
            shutil.rmtree(folder)
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")  # nor is it code to submit
        self._metrics = (folder / "metrics.jsonl").open("a")

    def dataset(self, name: str, folder: Path) -> Path:
        """The folder that was named, or the one file."""
        found = self._datasets.get(name)
        if found is None or not found.exists():
            variable = "AIOS_DATA_DIR" if name == "dir" else f"AIOS_DATA_{name.upper()}"
            raise InvalidArgument.of(
                "dataset",
                f"without a platform, set {variable} to a folder with its files, or say `data=` (now: {found})",
            )
        return found

    def base_model(self, folder: Path) -> tuple[Path, tensor_pb2.Signature]:
        """AIOS_DATA_BASE names the folder of the run that made it."""
        made = self.dataset("base", folder)
        described = json.loads((made / "model.json").read_text())
        return made / "model", ParseDict(described["signature"], tensor_pb2.Signature())

    def restore(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; metrics after it are forgotten."""
        found = sorted(self._checkpoints.glob(f"*/{MANIFEST}"), reverse=True)
        if not found:
            self._rewind(0)
            return None
        folder = found[0].parent
        for name, sha256 in json.loads(found[0].read_text()).items():
            if transfer.digest(folder / name)[0] != sha256:
                raise DataLoss(
                    f"{folder / name} is not what was saved: remove the checkpoint to use an older one."
                )
        step = int(folder.name)
        self._rewind(step)
        return Checkpoint(step, folder)

    def save(self, step: int, folder: Path) -> None:
        """Move a folder in; the manifest comes last."""
        target = self._checkpoints / f"{step:0{STEP_DIGITS}}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
        digests = {str(path.relative_to(target)): transfer.digest(path)[0] for path in files}
        partial = target / f".{MANIFEST}"
        with partial.open("w") as file:
            json.dump(digests, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(target / MANIFEST)

    def put(self, step: int, metrics: Mapping[str, float], progress: run_pb2.Progress) -> None:
        """One line."""
        if metrics:
            # Names need no escape and values are finite: this is JSON, and three times as fast as its encoder.
            values = "".join(f', "{key}": {value!r}' for key, value in metrics.items())
            self._metrics.write(f'{{"step": {step}{values}}}\n')

    def minds_stops(self) -> None:
        """Nobody needs its place."""

    def flush(self) -> None:
        """To the file."""
        self._metrics.flush()

    def complete(
        self,
        model: Path | None,
        signature: tensor_pb2.Signature | None,
        metrics: Mapping[str, float],
        outputs: Path | None,
        card: str = "",
        rejected: str = "",
    ) -> str:
        """Copy the result in."""
        for name, source in (("model", model), ("outputs", outputs)):
            if source is not None and source != self._folder / name:
                shutil.copytree(source, self._folder / name, dirs_exist_ok=True)
        described = {
            "metrics": dict(metrics),
            "signature": MessageToDict(signature) if signature else None,
            "card": card,
            "rejected": rejected,
        }
        (self._folder / "model.json").write_text(json.dumps(described, indent=1))
        (self._folder / "completed").touch()
        return ""

    def close(self) -> None:
        """Close the metrics; what was only of this attempt goes."""
        self._metrics.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _rewind(self, step: int) -> None:
        self._metrics.close()
        path = self._folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(
            "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        )
        self._metrics = path.open("a")
