"""The kill matrix: every process of ours dies at every step of a fault, again and again.

A round is a case (``cases``): a kind of fault, what is hit, how, and when. On the
node two programs of the lab work beside the installed system: the keeper runs under
a tracer (``tracer``), which stops it at a named step, and a warden (``warden``) does
the hitting and watches from outside. ``rounds`` plays one case and proves what must
hold after it, ``campaign`` plays them all, ``report`` says how it went.

Nothing of this is in the product: the keeper that is traced is the installed one,
whose functions are wrapped from outside before its own ``main`` is called.
"""
