"""What the controller must still know after it was killed: SQLAlchemy Core, no ORM.

What it promises: what a method has returned from is on disk (SQLite: WAL and
synchronous=FULL). The start of a run and the latch are written here *before*
anything is sent. Writes go one after the other, so that the audit chain has no forks.
"""

from chaos_controller.store.certificates import Revocation
from chaos_controller.store.store import EXPERIMENT, Issued, LatchRow, NewRun, Occupied, Store

__all__ = ["EXPERIMENT", "Issued", "LatchRow", "NewRun", "Occupied", "Revocation", "Store"]
