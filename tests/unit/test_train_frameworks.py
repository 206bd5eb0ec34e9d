"""Lightning's and Hugging Face's Trainer in a run: stopped in the middle, it goes on to the same end."""

import json
import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import aios.train

ROWS, BATCH, EPOCHS = 12, 3, 3
STEPS = ROWS // BATCH * EPOCHS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runs live; nothing of the environment says that there is a platform."""
    for name in [name for name in os.environ if name.startswith("AIOS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Rows(Dataset[dict[str, Tensor]]):
    """y = 3x, and when to be asked to stop."""

    stop_at = 0

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.read += 1
        if self.read == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.tensor([index / ROWS])
        return {"x": x, "labels": 3 * x}


def curve(folder: Path) -> dict[int, float]:
    """The losses; a step that is there twice fails."""
    found: dict[int, float] = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if "loss" in line:
            assert line["step"] not in found
            found[line["step"]] = line["loss"]
    return found


def lightning(folder: Path, stop_at: int = 0) -> None:
    from lightning.pytorch import LightningModule, Trainer

    from aios.train.lightning import checkpoint, joined

    class Resumable(DataLoader[dict[str, Tensor]]):
        """Goes on in the middle of an epoch, as Lightning asks its loaders to."""

        given = first = 0

        def __iter__(self) -> Any:
            first, self.first = self.first, 0
            for self.given, batch in enumerate(islice(super().__iter__(), first, None), first + 1):
                yield batch

        def state_dict(self) -> dict[str, int]:
            return {"given": self.given % len(self)}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.first = state["given"]

    class Line(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            loss = nn.functional.mse_loss(self.layer(batch["x"]), batch["labels"])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 0.1)

    rows = Rows()
    rows.stop_at = stop_at
    with aios.train.init(folder=folder) as run:
        trainer = Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            **joined(run),
        )
        trainer.fit(Line(), Resumable(rows, BATCH), ckpt_path=checkpoint(run), weights_only=False)
        run.complete()


def transformers(folder: Path, stop_at: int = 0) -> None:
    from transformers import Trainer, TrainingArguments

    from aios.train.transformers import RunCallback, checkpoint

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Linear(1, 1)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": nn.functional.mse_loss(self.layer(x), labels)}

    rows = Rows()
    rows.stop_at = stop_at
    with aios.train.init(folder=folder) as run:
        arguments = TrainingArguments(
            str(run.folder("trainer")),
            per_device_train_batch_size=BATCH,
            num_train_epochs=EPOCHS,
            logging_steps=1,
            save_strategy="epoch",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(Line(), arguments, train_dataset=rows, callbacks=[RunCallback(run)])
        trainer.train(resume_from_checkpoint=checkpoint(run))
        run.complete()


@pytest.mark.parametrize("train", [lightning, transformers])
@pytest.mark.parametrize("stop_at", [ROWS, ROWS + BATCH + 2])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(folder: Path, train: Any, stop_at: int) -> None:
    """In the last step of the first epoch, and in the middle of the second."""
    train(folder / "whole")
    with pytest.raises(aios.train.Stopped):
        train(folder / "stopped", stop_at)
    left = curve(folder / "stopped")
    assert 0 < len(left) < STEPS
    train(folder / "stopped")
    whole = curve(folder / "whole")
    assert len(whole) == STEPS
    assert curve(folder / "stopped") == pytest.approx(whole)
