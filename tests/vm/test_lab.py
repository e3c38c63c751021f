"""The lab is what the drill measures on, so it is measured first."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos_core.errors import InvalidInput, LabError
from chaos_lab.fleet import Fleet
from chaos_lab.layout import LabDir

MODULES = (
    *("sch_netem", "sch_ingress", "cls_fw", "act_mirred", "ifb", "dummy"),
    *("ip_set", "ip_set_hash_net", "ip_set_hash_netport", "iptable_mangle", "ip6table_mangle"),
    *("xt_set", "xt_statistic", "xt_mark", "xt_multiport", "ipt_REJECT", "ip6t_REJECT"),
)


def reaches(fleet: Fleet, source: str, target: str, *, family: int = 4) -> bool:
    """Whether a ping from one VM to another comes back within a second."""
    seat = fleet.seat(target)
    address = seat.ip if family == 4 else seat.ip6
    ping = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", address]
    return fleet.exec(source, ping, check=False).returncode == 0


def our_processes(fleet: Fleet) -> list[str]:
    """Command lines of live host processes that belong to this lab."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"{fleet.lab.run}/" in words or str(fleet.lab.ssh_config) in words:
            found.append(words)
    return found


@pytest.fixture
def healed(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet, without partitions before and after."""
    fleet.heal()
    yield fleet
    fleet.heal()


@pytest.fixture
def second() -> Iterator[Fleet]:
    """A second lab, of a controller alone, that a test may spoil."""
    second = Fleet(LabDir.find().beside("test-second"))
    second.up(nodes=0)
    yield second
    second.down()


def test_every_vm_runs_systemd_without_a_failed_unit(fleet: Fleet) -> None:
    assert fleet.names == ("controller", "n1", "n2", "n3")
    assert all(vm.running for vm in fleet.status())
    for name in fleet.names:
        assert fleet.exec(name, ["systemctl", "is-system-running", "--wait"]).stdout == "running\n"
        assert fleet.exec(name, ["hostname"]).stdout == f"{name}\n"


def test_the_package_is_installed_and_nothing_of_it_is_enabled(fleet: Fleet) -> None:
    for program in ("chaosctl", "chaos-agent", "chaos-controller"):
        fleet.exec("n1", ["test", "-x", f"/usr/bin/{program}"])
    units = ["chaos-agent.service", "chaos-link.service", "chaos-controller.service"]
    states = fleet.exec("n1", ["systemctl", "is-enabled", *units], check=False).stdout.split()
    assert states == ["disabled"] * 3


def test_commands_arrive_as_given_and_their_results_come_back(fleet: Fleet) -> None:
    script = 'printf "%s|" "$@"; cat; echo oops >&2; exit 7'
    argv = ["sh", "-c", script, "sh", "a b", "$HOME", "it's", "", "*"]
    result = fleet.exec("n1", argv, input="in\n", check=False)
    assert (result.returncode, result.stderr) == (7, "oops\n")
    assert result.stdout == "a b|$HOME|it's||*|in\n"
    with pytest.raises(LabError, match=r"n1: .* ended with 7"):
        fleet.exec("n1", argv)
    with pytest.raises(LabError, match=r"did not end within 0\.5 s"):
        fleet.exec("n1", ["sleep", "5"], timeout=0.5)


def test_what_a_vm_does_on_which_a_command_does_not_end_is_told(fleet: Fleet) -> None:
    with pytest.raises(LabError) as raised:
        fleet.exec("n1", ["systemd-run", "--wait", "--unit=endless", "sleep", "40"], timeout=2)
    fleet.exec("n1", ["systemctl", "stop", "endless.service"])
    told = str(raised.value)
    assert re.search(r"\d+ +1 Ss +\S+ +\d+ .*sleep 40$", told, re.MULTILINE), told
    assert "Started endless.service" in told
    assert told.endswith("its clock runs"), told


def test_an_unknown_vm_is_refused_with_the_nearest_name(fleet: Fleet) -> None:
    with pytest.raises(InvalidInput, match="did you mean controller"):
        fleet.exec("controler", ["true"])


def test_commands_share_one_connection(fleet: Fleet) -> None:
    """Each would otherwise pay for a key exchange, which takes a VM half a second."""
    ports = {fleet.exec("n1", ["printenv", "SSH_CLIENT"]).stdout for _ in range(3)}
    assert len(ports) == 1


def test_files_are_put_with_their_mode_and_read_back(fleet: Fleet) -> None:
    fleet.put("n1", "/root/a file", b"\x00\xff\n", mode=0o600)
    assert fleet.get("n1", "/root/a file") == b"\x00\xff\n"
    assert fleet.exec("n1", ["stat", "-c", "%a", "/root/a file"]).stdout == "600\n"
    with pytest.raises(LabError, match="No such file"):
        fleet.get("n1", "/root/none")


def test_a_stream_can_be_read_as_it_comes_and_ends_with_its_process(fleet: Fleet) -> None:
    stream = fleet.popen("n1", ["ping", "-n", "-i", "0.2", fleet.seat("n2").ip])
    assert stream.stdout is not None
    assert any("time=" in stream.stdout.readline() for _ in range(3))
    stream.terminate()
    stream.communicate(timeout=5)
    deadline = time.monotonic() + 5
    while fleet.exec("n1", ["pgrep", "-x", "ping"], check=False).returncode == 0:
        assert time.monotonic() < deadline, "ping outlived its stream"
        time.sleep(0.1)


def test_a_vm_has_what_the_agent_relies_on(fleet: Fleet) -> None:
    fleet.exec("n1", ["modprobe", "--all", *MODULES])
    for tables in ("iptables", "ip6tables"):
        assert "(legacy)" in fleet.exec("n1", [tables, "--version"]).stdout
    controllers = fleet.get("n1", "/sys/fs/cgroup/cgroup.controllers").split()
    assert {b"cpu", b"memory", b"pids"} <= set(controllers)
    total_kib = int(fleet.get("n1", "/proc/meminfo").split()[1])
    assert 300 * 1024 < total_kib <= 384 * 1024
    assert 0 < float(fleet.get("n1", "/proc/uptime").split()[0]) < 3600
    assert reaches(fleet, "n1", "n2", family=6)
    flood = ["ping", "-f", "-q", "-c", "2000", fleet.seat("n2").ip]
    assert " 0% packet loss" in fleet.exec("n1", flood).stdout


def test_a_cut_parts_two_vms_in_both_families_and_no_one_else(healed: Fleet) -> None:
    healed.cut("n1", "n2")
    for family in (4, 6):
        assert not reaches(healed, "n1", "n2", family=family)
        assert not reaches(healed, "n2", "n1", family=family)
        assert reaches(healed, "n1", "n3", family=family)
        assert reaches(healed, "n2", "controller", family=family)
    healed.cut("n1", "controller")
    assert not reaches(healed, "controller", "n1")
    healed.heal()
    assert reaches(healed, "n1", "n2")
    assert reaches(healed, "n2", "n1", family=6)
    assert reaches(healed, "controller", "n1")


def test_a_power_cut_keeps_what_was_synced(fleet: Fleet) -> None:
    before = fleet.boot_id("n3")
    fleet.put("n3", "/root/kept", "kept\n")
    fleet.exec("n3", ["sync"])
    fleet.power_cut("n3")
    assert [vm.name for vm in fleet.status() if not vm.running] == ["n3"]
    with pytest.raises(LabError, match="it has no power"):
        fleet.exec("n3", ["true"])
    assert not reaches(fleet, "n1", "n3")
    after = fleet.start("n3")
    assert before != after == fleet.boot_id("n3")
    assert fleet.get("n3", "/root/kept") == b"kept\n"
    assert reaches(fleet, "n1", "n3")


def test_a_kernel_that_panics_under_a_command_is_named_as_the_cause(fleet: Fleet) -> None:
    with pytest.raises(LabError, match="its kernel has ended: Kernel panic"):
        fleet.exec("n3", ["sh", "-c", "echo c > /proc/sysrq-trigger"])
    fleet.power_cut("n3")
    fleet.start("n3")
    assert reaches(fleet, "n1", "n3")


def test_a_reboot_gives_a_new_boot_id_and_keeps_disk_and_network(fleet: Fleet) -> None:
    before = fleet.boot_id("n3")
    fleet.put("n3", "/root/rebooted", "kept\n")
    after = fleet.reboot("n3")
    assert before != after == fleet.boot_id("n3")
    assert fleet.get("n3", "/root/rebooted") == b"kept\n"
    assert reaches(fleet, "n1", "n3")
    assert reaches(fleet, "n3", "n1", family=6)


def test_up_on_a_running_fleet_changes_nothing_and_another_command_finds_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = fleet.image  # so that an edit of the source meanwhile makes no difference
    monkeypatch.setattr("chaos_lab.image.build", lambda _lab, _say: image)
    pids = [vm.pid for vm in fleet.status()]
    again = Fleet(fleet.lab)
    again.up(nodes=3)
    assert [vm.pid for vm in again.status()] == pids
    assert again.exec("n1", ["hostname"]).stdout == "n1\n"


def test_the_package_brings_nothing_that_others_can_write_and_nothing_stray(fleet: Fleet) -> None:
    stray = ["-name", ".lock", "-o", "-name", ".gitignore", "-o", "-name", "CACHEDIR.TAG"]
    find = ["find", "/opt/chaosctl", "-perm", "/022", "-not", "-type", "l", "-o", *stray]
    assert fleet.exec("n1", find).stdout == ""


def test_the_package_is_purged_without_a_trace(second: Fleet) -> None:
    second.exec("controller", ["dpkg", "--purge", "chaosctl"])
    find = ["find", "/etc", "/lib/", "/opt", "/usr", "/var/lib", "-xdev", "-iname", "*chaos*"]
    assert second.exec("controller", find, check=False).stdout == ""


def test_a_second_lab_runs_beside_the_first_and_down_leaves_nothing_of_it(
    fleet: Fleet, second: Fleet
) -> None:
    second.exec("controller", ["true"])
    namespace = second.network.path
    assert our_processes(second)
    assert namespace.exists()
    second.down()
    assert our_processes(second) == []
    assert not namespace.exists()
    assert not second.lab.run.exists()
    assert not second.lab.state.exists()
    assert not second.is_up
    assert second.status() == []
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True)
    assert "tap-" not in links.stdout
    second.down()
    assert fleet.exec("controller", ["true"]).returncode == 0
