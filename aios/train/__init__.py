"""What a training script imports: its settings, its data, its checkpoints, its metrics.

    with aios.train.init({"lr": 0.1}) as run:
        checkpoint = run.restore()
        for step in ...:
            run.report(step, loss=loss)
            if run.should_stop():
                with run.save(step) as folder:
                    ...
                run.leave()
        run.complete(folder_of_the_model, signature)

Inside a job of the platform the run is the job's; anywhere else it lives in a folder, and no server is needed. Knows
no framework: checkpoints and models are folders of files. A script need not import it at all: see docs/training.md.
"""

from aios.train.home import Checkpoint
from aios.train.run import Run, Stopped, init

__all__ = ["Checkpoint", "Run", "Stopped", "init"]
