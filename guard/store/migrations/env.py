"""Alembic's entry: migrates on the connection it is handed, in that connection's transaction."""

from alembic import context

from guard.store.rows import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
