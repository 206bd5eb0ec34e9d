"""Run by Alembic for every command; `aios.records.migrations.config` says on what."""

from alembic import context

from aios.records.migrations import render_type

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=attributes["metadata"],
    render_item=render_type,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
