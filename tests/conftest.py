"""For all tests: what the shell that runs them must not decide."""

from __future__ import annotations

import signal

# A shell without job control has SIGINT ignored by what it runs in the background, and so
# would every process be that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
