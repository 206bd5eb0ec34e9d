"""A small regression on one process or several: DDP, or FSDP2 with `{"shard": true}`. Both learn the same numbers.

torchrun --nproc-per-node 2 train.py            without a platform
launcher: torchrun                              in run.yaml
"""

import os
import signal
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import aios.train

SAMPLES, FEATURES, BATCH = 512, 16, 32


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = torch.randn(SAMPLES, FEATURES)
    targets = features.pow(2).sum(1, keepdim=True)
    core = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, 1))
    defaults = {"steps": 40, "leave_after": 0, "shard": False, "kill": "", "pause": 0.0}
    with aios.train.init(defaults) as run:
        if run.world > 1 or run.hparams["shard"]:
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
            dist.init_process_group("gloo")
        model: nn.Module = core
        if run.hparams["shard"]:
            fully_shard(core)  # in place
        elif run.world > 1:
            model = DistributedDataParallel(core)
        optimizer = torch.optim.AdamW(core.parameters(), lr=0.01)
        first = 1
        if found := run.restore():
            load(core, optimizer, found.folder, shard=run.hparams["shard"])
            first = found.step + 1
        for step in range(first, run.hparams["steps"] + 1):
            chosen = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(step))[:BATCH]
            mine = chosen[run.rank :: run.world]  # equal parts: the mean of means is the mean
            loss = nn.functional.mse_loss(model(features[mine]), targets[mine])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            time.sleep(run.hparams["pause"])
            if f"{run.rank}:{step}" == run.hparams["kill"] and not found:
                os.kill(os.getpid(), signal.SIGKILL)
            run.report(step, loss=loss.item())
            stopping = run.should_stop() or step == run.hparams["leave_after"]
            if stopping or step % 10 == 0:
                with run.save(step) as folder:
                    save(core, optimizer, folder, run.rank, shard=run.hparams["shard"])
            if stopping:
                print(f"rank {run.rank} leaves after {step}", flush=True)
                run.leave()
        with torch.no_grad():
            print(
                f"rank {run.rank} final {nn.functional.mse_loss(model(features), targets).item():.9f}",
                flush=True,
            )
        run.complete()
    if dist.is_initialized():
        dist.destroy_process_group()


def save(
    model: nn.Module, optimizer: torch.optim.Optimizer, folder: os.PathLike[str], rank: int, *, shard: bool
) -> None:
    """Each rank its part of what is sharded; the first alone what all have."""
    if shard:
        parts, state = get_state_dict(model, optimizer)
        state_dict_saver.save({"model": parts, "optimizer": state}, checkpoint_id=folder)
    elif rank == 0:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, f"{folder}/state.pt")


def load(
    model: nn.Module, optimizer: torch.optim.Optimizer, folder: os.PathLike[str], *, shard: bool
) -> None:
    """From as many ranks as there were, to as many as there are."""
    if shard:
        parts, state = get_state_dict(model, optimizer)
        state_dict_loader.load({"model": parts, "optimizer": state}, checkpoint_id=folder)
        set_state_dict(model, optimizer, model_state_dict=parts, optim_state_dict=state)
    else:
        state = torch.load(f"{folder}/state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])


if __name__ == "__main__":
    main()
