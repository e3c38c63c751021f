"""What can be done to a world: one function an action of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.sim.plan import NODES

if TYPE_CHECKING:
    from tests.sim.control import Instance
    from tests.sim.node import Agent
    from tests.sim.world import World


def _agent(world: World, whom: int) -> Agent:
    """That node; 9 is one that carries a fault, if there is any."""
    if whom == 9:
        busy = [agent for agent in world.agents.values() if agent.sets.in_force()]
        return world.rng.choice(busy or list(world.agents.values()))
    return world.agents[NODES[whom]]


def _controller(world: World) -> Instance | None:
    """One that serves, if there is any."""
    serving = world.up()
    return world.rng.choice(serving) if serving else None


# ── operators ─────────────────────────────────────────────────────────────────────────────


def inject(world: World, wanted: int, first: int, duration: int) -> None:
    controller = _controller(world)
    if controller is not None and controller.process.paused_until <= world.loop.now:
        nodes = tuple(NODES[(first + step) % len(NODES)] for step in range(wanted))
        controller.spawn(controller.inject(nodes, duration))


def abort(world: World, follow: bool) -> None:
    controller = _controller(world)
    if controller is not None and controller.process.paused_until <= world.loop.now:
        controller.spawn(controller.abort(follow))


def resume(world: World) -> None:
    for controller in world.up():
        if controller.process.paused_until <= world.loop.now:
            controller.spawn(controller.resume())


# ── nodes ─────────────────────────────────────────────────────────────────────────────────


def cut(world: World, whom: int, span: int, way: str) -> None:
    """A partition of one node, or of all of them (-1), in one or both directions."""
    agents = list(world.agents.values()) if whom < 0 else [_agent(world, whom)]
    for agent in agents:
        for direction in ("up", "down") if way == "both" else (way,):
            world.cuts[agent.name, direction] = world.loop.now + span


def pause_agent(world: World, whom: int, span: int) -> None:
    process = _agent(world, whom).process
    process.paused_until = max(process.paused_until, world.loop.now + span)


def pause_waiting(world: World, whom: int, span: int) -> None:
    """It stops right behind its next heartbeat, so that the answer finds it stopped."""
    _agent(world, whom).pause_at_beat = span


def kill_agent(world: World, whom: int, span: int) -> None:
    agent = _agent(world, whom)
    if agent.process.alive:
        agent.crash()
        process, loop = agent.process, world.loop
        process.paused_until = 0
        loop.at(loop.now + span, lambda: None if process.alive else agent.start(), process)


def reboot(world: World, whom: int, span: int) -> None:
    """The node goes down: its kernel forgets, its clock begins anew."""
    agent = _agent(world, whom)
    if agent.process.alive and not agent.asleep:
        agent.crash()
        agent.sets.clear()

        def up() -> None:
            agent.machine.reboot(world.loop.now)
            agent.start()

        world.loop.at(world.loop.now + span, up, agent.process)


def suspend(world: World, whom: int, span: int) -> None:
    """The machine sleeps: no packet leaves it; CLOCK_MONOTONIC and its sets stand still."""
    agent = _agent(world, whom)
    if agent.asleep:
        return
    agent.asleep = True
    agent.process.paused_until = max(agent.process.paused_until, world.loop.now + span)

    def wake() -> None:
        agent.asleep = False
        agent.machine.slept += agent.machine.boottime(span) - agent.machine.boottime(0)
        world.judge.mind(agent.name).slept_until = world.loop.now
        agent.resumed()

    world.loop.at(world.loop.now + span, wake)


def unlink(world: World, whom: int, _span: int) -> None:
    """The link's process dies, and is there again half a second later."""
    agent = _agent(world, whom)
    if agent.process.alive:
        agent.unlink()


# ── controllers ───────────────────────────────────────────────────────────────────────────


def pause_controller(world: World, span: int) -> None:
    controller = _controller(world)
    if controller is not None:
        controller.process.paused_until = world.loop.now + span


def kill_controller(world: World, span: int, how: str, at_least: bool) -> None:
    """It dies. Some time later it, or its standby, starts: from its database or an old copy."""
    controller = _controller(world)
    if controller is None:
        return
    host = world.hosts.index(controller)
    world.end(controller)
    other = host if "standby" not in how else 1 - host

    def again() -> None:
        if world.hosts[other] is None:
            _provide(world, other, host, stale="stale" in how)
            world.begin(other, _epoch(world) if at_least and "stale" in how else 0)

    world.loop.at(world.loop.now + span, again)


def stop_controller(world: World, span: int) -> None:
    controller = _controller(world)
    if controller is None or controller.process.paused_until > world.loop.now:
        return
    host = world.hosts.index(controller)
    controller.spawn(controller.stop())

    def again() -> None:
        if world.hosts[host] is None:
            world.begin(host)

    world.loop.at(world.loop.now + 300_000 + span, again)


def second_controller(world: World, how: str, at_least: bool) -> None:
    """A standby starts while the first is alive: on its database, or on an old copy of it."""
    here = [host for host in (0, 1) if world.hosts[host] is None]
    if len(here) == 1:
        _provide(world, here[0], 1 - here[0], stale=how == "stale")
        world.begin(here[0], _epoch(world) if at_least else 0)


def backup(world: World) -> None:
    world.backups.append(world.databases[world.newest].copy())


def stall_disk(world: World, span: int) -> None:
    world.stalled_until = max(world.stalled_until, world.loop.now + span)


def wall(world: World, jump: int) -> None:
    world.outside.wall += jump


def _provide(world: World, host: int, of: int, *, stale: bool) -> None:
    """Which database a controller on ``host`` starts from."""
    if stale:
        world.databases[host] = world.rng.choice(
            world.backups or world.databases[of : of + 1]
        ).copy()
    elif host != of:
        world.databases[host] = world.databases[of]


def _epoch(world: World) -> int:
    """What an operator passes as --epoch-at-least: one more than the fenced one's log says."""
    return 1 + max(agent.supervisor.leases.epoch for agent in world.agents.values())
