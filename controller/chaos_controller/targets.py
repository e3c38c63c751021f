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
from chaos_core.faults._network import NetworkFault, is_name
from chaos_core.faults.connections_hold import ConnectionsHold, at
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
    if isinstance(fault, ConnectionsHold) and (host := fault.named()):
        address, *_ = await _addresses("to", (host,), known, fleet)
        to = at(address, int(fault.to.rpartition(":")[2]))
        return dict.fromkeys(nodes, params | {"to": to})
    if not isinstance(fault, NetworkFault):
        return dict.fromkeys(nodes, params)
    if fault.named("exclude"):
        params = params | {"exclude": await _addresses("exclude", fault.exclude, known, fleet)}
    if isinstance(fault, NetworkPartition) and fault.topology:
        others = topology.cuts(fault.topology, nodes, fault.groups)
        params = {key: value for key, value in params.items() if key not in ("topology", "groups")}
        peers = {node: await _addresses("peers", others[node], known, fleet) for node in others}
    elif fault.named("peers"):
        found = await _addresses("peers", fault.peers, known, fleet)
        peers = {node: _without_itself(node, found, fleet) for node in nodes}
    else:
        return dict.fromkeys(nodes, params)
    return {node: params | {"peers": _left(peers[node], params)} for node in peers}


async def _addresses(
    field: str, whom: Sequence[str], known: Mapping[str, object], fleet: Fleet
) -> list[str]:
    """Those of names; what is an address or a CIDR stays what it is. ``field`` is for messages."""
    found: list[str] = []
    for text in whom:
        found += await _look_up(field, text, known, fleet) if is_name(text) else (text,)
    return list(dict.fromkeys(found))


async def _look_up(
    field: str, name: str, known: Mapping[str, object], fleet: Fleet
) -> tuple[str, ...]:
    if name in known:
        return _of_node(field, name, fleet)
    if "=" in name:
        return _labelled(field, name, fleet)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_LOOKUP_S):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise InvalidInput(
            f"{field}: {name!r} is no node, and no host that this controller can look up ({error})",
            hint="chaosctl nodes lists the nodes",
        ) from None
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _of_node(field: str, name: str, fleet: Fleet) -> tuple[str, ...]:
    session = fleet.sessions.get(name)
    addresses = tuple(session.hello.addresses) if session else ()
    if not addresses:
        raise InvalidInput(
            f"{field}: the addresses of node {name!r} are not known",
            hint="it has to be connected; or give its addresses",
        )
    return addresses


def _labelled(field: str, label: str, fleet: Fleet) -> tuple[str, ...]:
    nodes = [name for name, session in fleet.sessions.items() if label in session.hello.labels]
    if not nodes:
        raise InvalidInput(
            f"{field}: no connected node is labelled {label!r}", hint="chaosctl nodes -o json"
        )
    return tuple(address for name in sorted(nodes) for address in _of_node(field, name, fleet))


def _without_itself(node: str, peers: Sequence[str], fleet: Fleet) -> list[str]:
    """A node is not its own peer, though a label may be its own."""
    session = fleet.sessions.get(node)
    own = set(session.hello.addresses) if session else set()
    left = [peer for peer in peers if peer not in own]
    if not left:
        raise InvalidInput(f"peers: they are node {node!r} itself", hint="name the other side")
    return left


def _left(peers: Sequence[str], params: Mapping[str, Any]) -> list[str]:
    """Without those that are excluded, so that it does not matter what addresses a name has."""
    left = [peer for peer in peers if peer not in params.get("exclude", ())]
    if not left:
        raise InvalidInput("exclude: no peer is left")
    return left
