"""Schema changes, one file a revision, run at start by ``Store.open``."""
