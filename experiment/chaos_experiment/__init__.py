"""Experiments: what «well» means, how it is hurt, what was learned.

Pure but for ``probes``, which talk to the systems under test. ``chaosctl`` checks and
shows scenarios with it, the controller runs them.
"""
