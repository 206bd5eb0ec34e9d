"""The training that scheduler_preemption stops: logistic regression whose steps take 50 ms, saved every 200 steps and when
it is told to stop."""

import json
import time

import numpy as np
import psutil

import aios.train

STEP_SECONDS, SAVE_STEPS, FEATURES = 0.05, 200, 256


def processor_seconds() -> float:
    """That this process has used, and the one that fetched its code and checkpoint and started it."""
    own = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (own, *own.parents()[:1]))


def main() -> None:
    """Train. Each line that it prints is what it did: from which step, what it saved, to which step."""
    truth, weights = np.random.default_rng(0).standard_normal(FEATURES), np.zeros(FEATURES)
    with aios.train.init({"steps": 1000}) as run:
        steps = run.hparams["steps"]
        found = run.restore()
        if found:
            weights = np.load(found.folder / "weights.npy")
        first = found.step if found else 0
        told = {"from": first, "began": 0.0, "ended": 0.0, "processor": processor_seconds()}
        run.progress("train", steps)
        for step in range(first + 1, steps + 1):
            began = time.time()
            told["began"] = told["began"] or began
            inputs = np.random.default_rng(step).standard_normal((64, FEATURES))
            missed = 1 / (1 + np.exp(-inputs @ weights)) - (inputs @ truth > 0)
            weights -= 0.1 * inputs.T @ missed / len(inputs)
            time.sleep(max(0.0, began + STEP_SECONDS - time.time()))
            run.report(step, loss=float(np.square(missed).mean()))
            told |= {"to": step, "ended": time.time()}
            stop = run.should_stop()
            if stop or step % SAVE_STEPS == 0:
                with run.save(step) as folder:
                    np.save(folder / "weights.npy", weights)
                print(json.dumps({"saved": step}), flush=True)
            if stop:
                print(json.dumps(told), flush=True)
                run.leave()
        print(json.dumps(told), flush=True)
        run.complete()


if __name__ == "__main__":
    main()
