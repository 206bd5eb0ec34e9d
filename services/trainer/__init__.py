"""Training runs: what was asked for, where it stands, what it measured and what it made.

Emits `run` events. Decides no placement (the scheduler does), holds no bytes (the data service does), and imports no
torch: what needs it runs as a job (`services.trainer.job`).
"""
