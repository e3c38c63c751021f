"""A resolver that stands in for others: it answers for some names, and asks them for the rest.

While the lease lives, UDP queries that carry one of the names are redirected here, and all TCP
connections to a resolver: of those it is known which one was wanted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

from chaos_agent.workers._redirected import EVERYWHERE, HERE, Address, destination, sockets

_MOST = 128  # connections at once
_CONNECT_S = 5.0
_LONGEST_QUERY = 65_535
_IP_PKTINFO = 8  # linux/in.h; Python 3.11 does not name it
_ROOM = 128  # for what the kernel says of a datagram
_RCODES = {"nxdomain": dns.rcode.NXDOMAIN, "servfail": dns.rcode.SERVFAIL}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered for which names."""

    names: tuple[dns.name.Name, ...]
    subdomains: bool
    rcode: dns.rcode.Rcode
    addresses: tuple[str, ...]

    @classmethod
    def read(cls, arguments: dict[str, Any]) -> Self:
        return cls(
            names=tuple(map(dns.name.from_text, arguments["names"])),
            subdomains=bool(arguments["subdomains"]),
            rcode=_RCODES.get(arguments["answer"], dns.rcode.NOERROR),
            addresses=tuple(arguments["address"]),
        )

    def to(self, packet: bytes) -> bytes | None:
        """The answer to a query; None to one for another name, and to what is none."""
        try:
            query = dns.message.from_wire(packet)
        except (dns.exception.DNSException, ValueError):
            return None
        if query.flags & dns.flags.QR or query.opcode() != dns.opcode.QUERY:
            return None
        if len(query.question) != 1 or not self._means(query.question[0].name):
            return None
        question = query.question[0]
        answer = dns.message.make_response(query, recursion_available=True)
        answer.set_rcode(self.rcode)
        found = [text for text in self.addresses if _type(text) == question.rdtype]
        if found:
            answer.answer.append(
                dns.rrset.from_text_list(question.name, 0, question.rdclass, _type(found[0]), found)
            )
        return answer.to_wire()

    def _means(self, name: dns.name.Name) -> bool:
        return any(
            name == one or (self.subdomains and name.is_subdomain(one)) for one in self.names
        )


async def serve(arguments: dict[str, Any], tell: Callable[[str], object]) -> None:
    """Answer on ``port`` of this node's loopback addresses, until killed; with ``forwarded`` of

    all addresses, since what the node forwards is redirected to the one of the interface by
    which it came. Others are asked by TCP from one of ``own_ports``.
    """
    hosts = EVERYWHERE if arguments["forwarded"] else HERE
    answer, port = Answer.read(arguments), int(arguments["port"])
    low, high = arguments["own_ports"]
    turns = asyncio.Semaphore(_MOST)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with turns:
            with suppress(OSError, asyncio.IncompleteReadError):
                there = destination(writer.get_extra_info("socket"))
                if there[1] != port:  # else nobody redirected it
                    await _Connection(reader, writer, answer).run(there, range(low, high + 1))
            writer.close()

    loop = asyncio.get_running_loop()
    for one in sockets(port, hosts, socket.SOCK_DGRAM):
        loop.add_reader(one, _Datagrams(one, answer).take)
    servers = [await asyncio.start_server(take, sock=one) for one in sockets(port, hosts)]
    tell("")
    await asyncio.gather(*(server.serve_forever() for server in servers))


class _Datagrams:
    """Queries by UDP, of one family. Each is answered from the address to which it came."""

    def __init__(self, one: socket.socket, answer: Answer) -> None:
        self._socket, self._answer = one, answer
        four = one.family == socket.AF_INET
        self._level = socket.IPPROTO_IP if four else socket.IPPROTO_IPV6
        self._kind = _IP_PKTINFO if four else socket.IPV6_PKTINFO
        one.setsockopt(self._level, _IP_PKTINFO if four else socket.IPV6_RECVPKTINFO, 1)

    def take(self) -> None:
        """One query, if it is still there."""
        with suppress(OSError):
            data, told, _, client = self._socket.recvmsg(_LONGEST_QUERY, _ROOM)
            answer = self._answer.to(data)
            to = [body for level, kind, body in told if (level, kind) == (self._level, self._kind)]
            if answer is not None and to:
                self._socket.sendmsg(
                    [answer], [(self._level, self._kind, self._at(to[0]))], 0, client
                )

    def _at(self, told: bytes) -> bytes:
        """Where to answer from: the address alone, and the interface of one that is a link's."""
        if self._level == socket.IPPROTO_IP:  # struct in_pktinfo: interface, ours, destination
            return bytes(4) + told[4:8] + bytes(4)
        here = ipaddress.IPv6Address(told[:16])  # struct in6_pktinfo: destination, interface
        return told if here.is_link_local else told[:16] + bytes(4)


class _Connection:
    """One client by TCP and, once it asks for another name, the resolver that it wanted."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer
    ) -> None:
        self._reader, self._writer, self._answer = reader, writer, answer

    async def run(self, there: Address, own_ports: range) -> None:
        resolver: asyncio.StreamWriter | None = None
        back: asyncio.Task[None] | None = None
        try:
            while query := await _message(self._reader):
                answer = self._answer.to(query)
                if answer is not None:
                    await _send(self._writer, answer)
                    continue
                if resolver is None:
                    reader, resolver = await _connect(there, own_ports)
                    back = asyncio.create_task(self._relay(reader))
                await _send(resolver, query)
            if resolver is not None and back is not None:
                resolver.write_eof()
                await back
        finally:
            if resolver is not None and back is not None:
                back.cancel()
                resolver.close()

    async def _relay(self, reader: asyncio.StreamReader) -> None:
        """Until the resolver closes, whereupon the client has nobody to talk to either."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while answer := await _message(reader):
                await _send(self._writer, answer)
        self._writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """The next one, RFC 1035 section 4.2.2; empty at the end."""
    try:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    except asyncio.IncompleteReadError:
        return b""
    return await reader.readexactly(size)


async def _send(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(struct.pack("!H", len(message)) + message)
    await writer.drain()


async def _connect(
    there: Address, own_ports: range
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection from one of our ports. Raises OSError, or TimeoutError, which is one."""
    family = socket.AF_INET6 if ":" in there[0] else socket.AF_INET
    line = socket.socket(family, socket.SOCK_STREAM)
    try:
        line.setblocking(False)
        # Closed at once, so that the port can be had again.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for port in random.sample(own_ports, len(own_ports)):
            with suppress(OSError):
                line.bind(("", port))
                break
        else:
            raise OSError("no port of ours is free")
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.get_running_loop().sock_connect(line, there)
    except BaseException:
        line.close()
        raise
    return await asyncio.open_connection(sock=line)


def _type(address: str) -> dns.rdatatype.RdataType:
    four = ipaddress.ip_address(address).version == 4
    return dns.rdatatype.A if four else dns.rdatatype.AAAA
