"""Everything an effect needs of this machine, opened when first asked for.

A socket belongs to the network namespace in which its thread was when it was
opened: one Host, one thread, one namespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from chaos_agent.linux.cgroups import Cgroups
    from chaos_agent.linux.children import Children
    from chaos_agent.linux.devices import Devices
    from chaos_agent.linux.fib import Fib
    from chaos_agent.linux.ipsets import IpSets
    from chaos_agent.linux.limits import Writers
    from chaos_agent.linux.nft import Nft
    from chaos_agent.linux.nftrules import NftChains, NftSets
    from chaos_agent.linux.systemd import Systemd
    from chaos_agent.linux.tc import Tc
    from chaos_agent.linux.ways import Ways
    from chaos_agent.linux.workers import Workers
    from chaos_agent.linux.xtables import Xtables
    from chaos_agent.services import Service
    from chaos_core.effects import Backend


class Host:
    """The adapters of ``chaos_agent.linux``, each made once. Close it when done.

    ``services`` are those that workers may be given, by name.
    """

    def __init__(self, services: Mapping[str, Service] | None = None) -> None:
        self._services = services or {}
        self.draining: dict[str, int] = {}  # links whose packets are waited for, until when

    @cached_property
    def tc(self) -> Tc:
        from chaos_agent.linux.tc import Tc

        return Tc()

    @cached_property
    def fib(self) -> Fib:
        from chaos_agent.linux.fib import Fib

        return Fib()

    @cached_property
    def devices(self) -> Devices:
        from chaos_agent.linux.devices import Devices

        return Devices(self.tc, self.fib)

    @cached_property
    def ways(self) -> Ways:
        from chaos_agent.linux.ways import Ways

        return Ways(self.fib)

    @cached_property
    def sets(self) -> IpSets:
        from chaos_agent.linux.ipsets import IpSets

        return IpSets()

    @cached_property
    def xtables(self) -> Xtables:
        from chaos_agent.linux.xtables import Xtables

        return Xtables()

    @cached_property
    def nft(self) -> Nft:
        from chaos_agent.linux.nft import Nft

        return Nft()

    @cached_property
    def backend(self) -> Backend:
        """The firewall that is in use here, as found when first asked."""
        from chaos_agent.linux.backend import choose

        return choose(self)

    def sets_of(self, backend: Backend) -> IpSets | NftSets:
        """What keeps leased sets. Raises Unsupported where there is none."""
        if backend == "xtables":
            return self.sets
        from chaos_agent.linux.nftrules import NftSets

        return NftSets(self.nft)

    def chains(self, backend: Backend) -> Xtables | NftChains:
        """What keeps chains. Raises Unsupported where there is none."""
        return self.xtables if backend == "xtables" else self.nft_chains

    @cached_property
    def nft_chains(self) -> NftChains:
        from chaos_agent.linux.nftrules import NftChains

        return NftChains(self.nft)

    @cached_property
    def cgroups(self) -> Cgroups:
        from chaos_agent.linux.cgroups import find

        return find()

    @cached_property
    def limits(self) -> Writers:
        from chaos_agent.linux.limits import Writers

        return Writers()

    @cached_property
    def children(self) -> Children:
        from chaos_agent.linux.children import Children

        return Children()

    @cached_property
    def workers(self) -> Workers:
        from chaos_agent.linux.workers import Workers

        return Workers(self.systemd, self._services)

    @cached_property
    def systemd(self) -> Systemd:
        from chaos_agent.linux.systemd import Systemd

        return Systemd()

    def close(self) -> None:
        """Close sockets. Holders lose their parent's pipe by this, and end."""
        for name in ("ways", "devices", "nft", "nft_chains"):  # which have no socket of their own
            self.__dict__.pop(name, None)
        for name in ("tc", "fib", "sets", "limits", "children", "workers", "systemd"):
            adapter = self.__dict__.pop(name, None)
            if adapter is not None:
                adapter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
