"""Whom a request means: names of nodes, labels and hosts become addresses.

The keeper has no network to ask, so what is sent to it are addresses only. They are those
of this moment, and go into the run's record. A topology becomes peers too, others for
each node.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from chaos_controller.fleet import Fleet
from chaos_core import faults, topology
from chaos_core.errors import InvalidInput
from chaos_core.faults._network import NetworkFault
from chaos_core.faults.network_partition import NetworkPartition
from chaos_core.messages import read_params
from chaos_proto.v1 import chaos_pb2 as pb

_LOOKUP_S: Final = 3.0


async def expand(
    request: pb.InjectRequest, known: Mapping[str, object], fleet: Fleet
) -> dict[str, dict[str, Any]]:
    """The nodes that are to carry the fault, each with its parameters.

    ``known`` are all nodes. Raises InvalidInput when a name stands for nothing.
    """
    params = read_params(request.params or "{}", request.kind)
    nodes = tuple(dict.fromkeys(request.nodes))
    if request.kind not in faults.kinds():  # nobody here knows what its parameters mean
        return dict.fromkeys(nodes, params)
    fault = faults.parse(request.kind, params)
    if isinstance(fault, NetworkPartition) and fault.topology:
        peers = topology.cuts(fault.topology, nodes, fault.groups)
        kept = {key: value for key, value in params.items() if key not in ("topology", "groups")}
        return {
            node: kept | {"peers": [a for other in others for a in _of_node(other, fleet)]}
            for node, others in peers.items()
        }
    if not isinstance(fault, NetworkFault) or not fault.named_peers():
        return dict.fromkeys(nodes, params)
    found = {name: await _look_up(name, known, fleet) for name in fault.named_peers()}
    return {
        node: params | {"peers": _without(node, _replaced(fault, found), fleet)} for node in nodes
    }


async def _look_up(name: str, known: Mapping[str, object], fleet: Fleet) -> tuple[str, ...]:
    if name in known:
        return _of_node(name, fleet)
    if "=" in name:
        return _labelled(name, fleet)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_LOOKUP_S):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise InvalidInput(
            f"peers: {name!r} is no node, and no host that this controller can look up ({error})",
            hint="chaosctl nodes lists the nodes",
        ) from None
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _of_node(name: str, fleet: Fleet) -> tuple[str, ...]:
    session = fleet.sessions.get(name)
    addresses = tuple(session.hello.addresses) if session else ()
    if not addresses:
        raise InvalidInput(
            f"peers: the addresses of node {name!r} are not known",
            hint="it has to be connected; or give its addresses",
        )
    return addresses


def _labelled(label: str, fleet: Fleet) -> tuple[str, ...]:
    nodes = [name for name, session in fleet.sessions.items() if label in session.hello.labels]
    if not nodes:
        raise InvalidInput(
            f"peers: no connected node is labelled {label!r}", hint="chaosctl nodes -o json"
        )
    return tuple(address for name in sorted(nodes) for address in _of_node(name, fleet))


def _replaced(fault: NetworkFault, found: Mapping[str, Sequence[str]]) -> list[str]:
    peers = (address for text in fault.peers for address in found.get(text, (text,)))
    return list(dict.fromkeys(peers))


def _without(node: str, peers: Sequence[str], fleet: Fleet) -> list[str]:
    """A node is not its own peer, though a label may be its own."""
    session = fleet.sessions.get(node)
    own = set(session.hello.addresses) if session else set()
    left = [peer for peer in peers if peer not in own]
    if not left:
        raise InvalidInput(f"peers: they are node {node!r} itself", hint="name the other side")
    return left
