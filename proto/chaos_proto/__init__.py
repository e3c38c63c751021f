"""The wire contract of the project and what both its ends share: identities, channels, PKI."""

import os

# Before anybody imports grpc: its fork handlers would stall the holders' parents, and the
# C core's own log lines repeat, less clearly, what we report as an error.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
