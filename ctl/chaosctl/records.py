"""Records of experiments, from the controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaosctl.options import Target

if TYPE_CHECKING:
    from chaos_experiment.record import Record


def fetch(whom: Target, run: str) -> Record:
    """All that the controller knows of an experiment. Raises InvalidInput if it is none."""
    from chaos_experiment.record import Record
    from chaosctl import client

    request = client.chaos_pb2.GetRecordRequest(run=run)
    with client.operator(whom) as stub:
        parts = [part.json for part in stub.GetRecord(request, timeout=client.ANSWER_S)]
    return Record.model_validate_json("".join(parts))
