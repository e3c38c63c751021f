"""What the kernel's errors say to an operator, and which package holds what it lacks."""

from __future__ import annotations

import errno

import pytest

from chaos_agent.linux import distribution
from chaos_agent.linux.refusal import code_of, refusal
from chaos_core.errors import ChaosError, KernelRefused, Refused, Unsupported


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EPERM, "CAP_NET_ADMIN"),
        (errno.EEXIST, "coexistence"),
        (errno.EBUSY, "another program uses it"),
        (errno.ENOSPC, "no room"),
        (errno.ENODEV, "interface is gone"),
        (errno.EOPNOTSUPP, "doctor"),
    ],
)
def test_an_error_of_the_kernel_is_a_refusal_with_its_name_and_what_to_do(
    code: int, hint: str
) -> None:
    error = refusal("add a link", code, where="eth0")
    assert isinstance(error, KernelRefused)
    assert isinstance(error, Refused)
    assert not isinstance(error, Unsupported)  # which reverts pass over
    assert f"({errno.errorcode[code]})" in error.what
    assert hint in error.hint


def test_an_error_that_says_nothing_about_this_host_is_none() -> None:
    assert type(refusal("add a link", errno.EINVAL)) is ChaosError
    assert "(4100)" in refusal("destroy a set", 4100, "busy").what


def test_the_words_of_a_tool_are_an_errno_again() -> None:
    assert code_of("Could not process rule: Operation not permitted") == errno.EPERM
    assert code_of("syntax error, unexpected newline") == 0


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found: dict[str, str] = {}
    monkeypatch.setattr(distribution, "_release", lambda: found)
    return found


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ({"ID": "rhel"}, "kernel-modules-extra-$(uname -r)"),
        ({"ID": "almalinux", "ID_LIKE": "rhel centos fedora"}, "kernel-modules-extra"),
        ({"ID": "fedora"}, "kernel-modules-extra"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "linux-modules-extra-$(uname -r)"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "linux-modules-extra-$(uname -r)"),
        ({"ID": "debian"}, "linux-image-amd64"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "kernel-default"),
        ({"ID": "nixos"}, "load or build the module"),
        ({}, "load or build the module"),
    ],
)
def test_a_hint_about_a_missing_module_names_the_package(
    system: dict[str, str], release: dict[str, str], package: str
) -> None:
    system.update(release)
    assert package in distribution.module_hint()
