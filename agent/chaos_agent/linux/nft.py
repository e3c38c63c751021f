"""nftables through libnftables' JSON: one call is one transaction of the kernel's.

What it lists is compared with what was written, so rules are written here as it lists
them. JSON as in libnftables-json(5).
"""

from __future__ import annotations

import ctypes
import errno
import json
from functools import cache
from typing import Any

from chaos_agent.linux.distribution import module_hint
from chaos_agent.linux.refusal import code_of, refusal
from chaos_core.errors import ChaosError, NotInForce, Unsupported

Command = dict[str, Any]

_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON, nftables/libnftables.h
# What says nothing about what this kernel can do: a revert must not pass over it.
_NO_FAULT_OF_THE_KERNELS = (
    *(errno.EPERM, errno.EACCES, errno.EBUSY, errno.EEXIST, errno.EAGAIN, errno.EINTR),
    *(errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.ENODEV),
)
_GONE = ("No such file or directory", "does not exist")


class Gone(NotInForce):
    """What a command is about is not there (any more): somebody flushed the rule set, say."""


@cache
def _library() -> Any:
    try:
        found = ctypes.CDLL("libnftables.so.1")
    except OSError:
        raise Unsupported(
            "there is no libnftables here", hint="apt-get install libnftables1"
        ) from None
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("nft_ctx_new", pointer, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [pointer]),
        ("nft_ctx_buffer_output", ctypes.c_int, [pointer]),
        ("nft_ctx_buffer_error", ctypes.c_int, [pointer]),
        ("nft_ctx_get_output_buffer", text, [pointer]),
        ("nft_ctx_get_error_buffer", text, [pointer]),
        ("nft_ctx_output_set_flags", None, [pointer, ctypes.c_uint]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [pointer, text]),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class Nft:
    """nftables of the network namespace of the moment.

    Each call uses a new libnftables context. In version 0.9.8 (Debian 11) a context that has
    listed an interval set fails every later command, without a message.
    """

    def __init__(self) -> None:
        self._lib = _library()

    def run(self, *commands: Command) -> list[Command]:
        """All of them or none. Raises Gone, Unsupported, or what ``refusal`` makes of it."""
        failed, said, problem = self._call(json.dumps({"nftables": commands}).encode())
        if failed:
            line = problem.strip().split("\n")[0].rpartition("Error: ")[2].strip()
            if any(gone in line for gone in _GONE):
                raise Gone(f"nftables: {line}", hint="another program has removed it")
            if code_of(line) in _NO_FAULT_OF_THE_KERNELS:
                raise refusal("change nftables", code_of(line), line)
            if not line:
                raise ChaosError("nftables refuses and does not say why")
            raise Unsupported(f"nftables refuses: {line}", hint=module_hint())
        found: list[Command] = json.loads(said)["nftables"] if said else []
        return found

    def _call(self, text: bytes) -> tuple[int, bytes, str]:
        context = self._lib.nft_ctx_new(0)
        try:
            self._lib.nft_ctx_buffer_output(context)
            self._lib.nft_ctx_buffer_error(context)
            self._lib.nft_ctx_output_set_flags(context, _JSON)
            failed = self._lib.nft_run_cmd_from_buffer(context, text)
            said = self._lib.nft_ctx_get_output_buffer(context)
            problem = self._lib.nft_ctx_get_error_buffer(context)
            return failed, said, problem.decode(errors="replace")
        finally:
            self._lib.nft_ctx_free(context)

    def tables(self) -> list[tuple[str, str]]:
        """(family, name) of every table, sorted."""
        found = self.run({"list": {"tables": None}})
        return sorted((i["table"]["family"], i["table"]["name"]) for i in found if "table" in i)

    def table(self, family: str, name: str) -> list[tuple[str, Command]]:
        """All of a table as (kind, object): itself, chains, rules, sets; empty without it."""
        try:
            found = self.run({"list": {"table": {"family": family, "name": name}}})
        except Gone:
            return []
        return [(kind, body) for item in found for kind, body in item.items() if kind != "metainfo"]
