"""Addresses as people and tools write them, in the one form that packets have."""

from __future__ import annotations

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def network(text: str) -> Network:
    """An address or CIDR. An IPv4 address that is mapped into IPv6, as ``::ffff:10.0.0.9``, is
    the IPv4 address that it stands for: no packet ever carries the mapped one.

    Raises ValueError with a text that says what is wrong.
    """
    if "%" in text:
        raise ValueError(f"{text!r} is not an address or CIDR (name the interface apart from it)")
    try:
        net = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address or CIDR ({error})") from None
    if net.version == 4 or not net.prefixlen:
        return net
    if net.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((int(net.network_address) & 0xFFFFFFFF, net.prefixlen - 96))
    if net.supernet_of(_MAPPED) and net.prefixlen >= 64:
        raise ValueError(
            f"{text!r} holds more than the mapped IPv4 addresses, which are ::ffff:0:0/96:"
            " write IPv4 addresses, as 10.0.0.0/8"
        )
    return net


def unreachable(net: Network) -> str:
    """Why no single packet can ever go there and come from there; empty when one may."""
    first = net.network_address
    if net.is_multicast:
        return "is multicast: a group answers nothing; name its members"
    if net.version == 4:
        if net.subnet_of(ipaddress.IPv4Network("0.0.0.0/8")):
            return "is no destination: 0.0.0.0/8 means this network; everything is 0.0.0.0/0"
        if int(first) == 2**32 - 1:
            return "is a broadcast address: name hosts or networks"
        return ""
    if net.num_addresses == 1 and not int(first):
        return "is no destination: it means no address; everything is ::/0"
    if net.prefixlen and net.subnet_of(_COMPATIBLE) and not net.is_loopback:
        return "is IPv4-compatible, which is not in use any more: write the IPv4 address"
    return ""
