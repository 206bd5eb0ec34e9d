"""What a training script imports: its settings, its data, its checkpoints, its metrics.

    with aios.train.init() as run:
        checkpoint = run.restore()
        for step in ...:
            run.report(step, loss=loss)
            if run.should_stop():
                run.save(step, folder)
                run.leave()

Works inside a job of the platform. Knows no framework: checkpoints and models are folders of files.
"""

from aios.train.run import Checkpoint, Run, Stopped, init

__all__ = ["Checkpoint", "Run", "Stopped", "init"]
