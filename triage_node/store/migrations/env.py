"""Runs migrations on the connection that Database.migrate holds (its lock included)."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()
