"""The revisions of the tables, for alembic: `env.py` is what it runs, `versions` has a file a revision."""
