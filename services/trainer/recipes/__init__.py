"""Training programs, one a file: `train(run)` trains the run that it is given. `services.trainer.catalog` lists them."""
