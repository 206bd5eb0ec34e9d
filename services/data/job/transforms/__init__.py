"""One module for each transform: `run(work)` makes tables of tables, without the platform."""
