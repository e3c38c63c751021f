"""Asks the controller for its nodes, once for each line that comes in; answers with a line of JSON.

Runs in the lab's network. To start ``chaosctl`` for each question would take a core of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chaos_core.errors import ChaosError
from chaosctl import client, output
from chaosctl.options import Target


def main() -> None:
    address, pki = sys.argv[1:]
    for _ in sys.stdin:
        try:
            with client.operator(Target(address, Path(pki))) as stub:
                nodes = stub.ListNodes(client.chaos_pb2.ListNodesRequest(), timeout=client.ANSWER_S)
            said = output.message(nodes)
        except ChaosError as error:
            said = {"error": error.what}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
