"""How long what is promised may take where other tests run beside."""

BOUND_S = 8
"""Until an effect is gone. Promised are 5 s, and measured so by the drill and the kill matrix,
which have the machine to themselves. Of two fleets each VM has a quarter of a CPU, of which a
service that is started again needs a second."""
