"""How long what is promised may take where other tests run beside."""

BOUND_S = 8
"""Until an effect is gone. Promised are 5 s, and measured so by the drill and the kill matrix,
which have the machine to themselves. Of two fleets beside the kernel's tests each VM has a
fraction of a CPU, of which a service that is started again needs a second."""
