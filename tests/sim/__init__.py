"""Deterministic simulation: the real lease, run and fencing code under a hostile virtual world.

::

    python -m tests.sim --seeds 100000     # what `make sim` runs
    python -m tests.sim --seed 4711        # replay one seed, shrunk, as a readable trace

Five agents, a controller and a standby run as they do in production, down to the
``Supervisor``, the ``Engine``, the ``LeasedSet`` verbs, ``Runs``, ``AgentLink`` and
``Aborts``. Pretended are only what touches the outside: clocks, the network, disks,
the kernel's sets, and who is alive. One seed is one schedule; the same seed is always
the same schedule, event for event.
"""
