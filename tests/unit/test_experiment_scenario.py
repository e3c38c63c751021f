"""Scenario files: what they come to, and what is said about every mistake in one."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment import source
from chaos_experiment.load import Loaded, load
from chaos_experiment.plan import Slo
from chaos_experiment.probes import Probe, Seen, Unit

SHOP = """\
title: One web server answers 50 ms late
hypothesis: Requests keep succeeding, and p99 stays below 150 ms.
tags: [network, production]
params: {delay: 50ms, url: "http://10.77.0.11/"}
levels: {light: {delay: 20ms}, heavy: {delay: 40ms}}
environments: {staging: {url: "http://staging.example/", delay: 10ms}}
targets:
  web: {labels: [role=web], pick: one}
probes:
  shop: {look: {url: "${url}", rate: 20}}
steady_state: ["shop.error_rate < 0.1%", "shop.p99 < 100ms"]
during: ["shop.error_rate < 1%"]
abort_when: ["shop.error_rate > 0.5% for 5s", "shop.p99 > 150ms for 3s", "health < 90"]
recovery: {within: 30s, stable: 5s}
slo: {mttr: 30s, error_rate: 1%, availability: 99%, latency_added: 500ms, recovery: 10s}
timeline:
  - {at: 0s, for: 60s, fault: network.latency, on: web, with: {peers: 10.0.0.7, delay: "${delay}"}}
"""


class Look(Probe):
    """A probe as the loader sees one."""

    kind = "look"
    summary = "looks"
    example: ClassVar[Mapping[str, Any]] = {"url": "http://10.0.0.1/"}
    unit: ClassVar[Unit] = "duration"

    url: str
    rate: int = 10

    def hosts(self) -> tuple[str, ...]:
        return (self.url,)

    async def measure(self, *_: object) -> Seen:
        raise NotImplementedError


class Count(Look):
    kind = "count"
    unit: ClassVar[Unit] = ""


KNOWN: Mapping[str, type[Probe]] = {"look": Look, "count": Count}


def loaded(text: str = SHOP, **how: Any) -> Loaded:
    return load(text, "shop.yaml", known=KNOWN, **how)


def with_timeline(items: str) -> Loaded:
    head = (
        SHOP[: SHOP.index("timeline:")]
        .replace("delay: 50ms, ", "")
        .replace("levels: {light: {delay: 20ms}, heavy: {delay: 40ms}}\n", "")
        .replace(", delay: 10ms", "")
    )
    return loaded(head + "timeline:\n" + textwrap.indent(textwrap.dedent(items), "  "))


def refused(text: str, **how: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        loaded(text, **how)
    return str(caught.value)


def times(plan: Loaded) -> list[tuple[str, float, float]]:
    return [(s.kind, s.at.seconds, s.end.seconds) for s in plan.plan.steps]


# ── what a file comes to ──────────────────────────────────────────────────────────────────


def test_a_scenario_is_read() -> None:
    shop = loaded()
    (step,) = shop.plan.steps
    assert (step.number, step.at, step.duration) == (1, 0, Duration.parse("60s"))
    assert (step.kind, step.targets) == ("network.latency", ("web",))
    assert step.params == {"peers": ["10.0.0.7/32"], "delay": "50ms"}
    assert step.where == "shop.yaml:17"
    assert [each.text for each in shop.plan.during] == ["shop.error_rate < 1%"]
    assert len(shop.plan.abort_when) == 3
    assert shop.plan.recovery_within == Duration.parse("30s")
    assert shop.plan.slo == Slo(
        mttr=Duration.parse("30s"),
        error_rate=1.0,
        availability=99.0,
        latency_added=Duration.parse("500ms"),
        recovery=Duration.parse("10s"),
    )
    assert shop.probes["shop"] == Look.model_validate({"url": "http://10.77.0.11/", "rate": 20})


@pytest.mark.parametrize(
    ("how", "delay", "url"),
    [
        ({}, "50ms", "http://10.77.0.11/"),
        ({"level": "light"}, "20ms", "http://10.77.0.11/"),
        ({"environment": "staging"}, "10ms", "http://staging.example/"),
        ({"environment": "staging", "level": "heavy"}, "40ms", "http://staging.example/"),
        ({"level": "heavy", "settings": {"delay": "5ms"}}, "5ms", "http://10.77.0.11/"),
    ],
)
def test_parameters_are_the_files_then_the_environments_the_levels_the_operators(
    how: dict[str, Any], delay: str, url: str
) -> None:
    shop = loaded(**how)
    assert shop.plan.steps[0].params["delay"] == delay
    assert shop.probes["shop"].hosts() == (url,)
    assert shop.params == {"delay": delay, "url": url}


def test_scalars_stay_what_was_written() -> None:
    data = source.read("a: 1:30\nb: on\nc: 010\nd: ~\ne: 2026-11-21\n", "x.yaml").data
    assert data == {"a": "1:30", "b": "on", "c": "010", "d": "~", "e": "2026-11-21"}


def test_a_step_without_a_time_begins_when_the_one_before_ends() -> None:
    plan = with_timeline("""\
        - {for: 10s, fault: cpu.stress, with: {percent: 10%}}
        - pause: 5s
        - {for: 10s, fault: memory.stress, with: {percent: 10%}, note: why  not}
        - note: half of it
        - {at: 40s, for: 1s, fault: cache.flush}
        - hook: flush
        """)
    assert times(plan) == [
        ("cpu.stress", 0, 10),
        ("memory.stress", 15, 25),
        ("cache.flush", 40, 41),
        ("hook.run", 41, 51),
    ]
    assert [step.number for step in plan.plan.steps] == [1, 2, 3, 4]
    assert plan.plan.steps[1].note == "why not"
    assert plan.plan.steps[3].params == {"hook": "flush"}
    assert [(n.at.seconds, n.text) for n in plan.plan.notes] == [(25, "half of it")]


def test_parallel_repeat_and_ramp_unfold() -> None:
    plan = with_timeline("""\
        - parallel:
            - {for: 10s, fault: cpu.stress, with: {percent: 10%}}
            - {at: 2s, for: 20s, fault: memory.stress, with: {percent: 10%}}
        - repeat:
            times: 2
            every: 30s
            do:
              - {for: 5s, fault: cache.flush}
              - {for: 5s, fault: cache.flush, with: {what: slab}}
        - {for: 10s, fault: network.latency, with: {peers: 10.0.0.7},
           ramp: {param: delay, from: 10ms, to: 50ms, steps: 5}}
        """)
    assert times(plan)[:6] == [
        ("cpu.stress", 0, 10),
        ("memory.stress", 2, 22),
        ("cache.flush", 22, 27),
        ("cache.flush", 27, 32),
        ("cache.flush", 52, 57),
        ("cache.flush", 57, 62),
    ]
    grown = plan.plan.steps[6:]
    assert [(step.at.seconds, step.end.seconds) for step in grown] == [
        (62, 64), (64, 66), (66, 68), (68, 70), (70, 72)
    ]  # fmt: skip
    assert [step.params["delay"] for step in grown] == ["10ms", "20ms", "30ms", "40ms", "50ms"]


def test_steps_are_numbered_in_the_order_of_their_times() -> None:
    plan = with_timeline("""\
        - {at: 30s, for: 5s, fault: cache.flush}
        - {at: 0s, for: 5s, fault: cpu.stress, with: {percent: 1%}}
        """)
    assert [(s.number, s.kind) for s in plan.plan.steps] == [(1, "cpu.stress"), (2, "cache.flush")]


def test_slo_by_environment() -> None:
    text = SHOP.replace(
        SHOP[SHOP.index("slo:") : SHOP.index("timeline:")],
        "slo: {production: {mttr: 30s}, staging: {mttr: 45s}}\n",
    )
    assert loaded(text, environment="staging").plan.slo.mttr == Duration.parse("45s")
    assert loaded(text, environment="production").plan.slo.mttr == Duration.parse("30s")
    assert "--env production | staging" in refused(text)
    chosen = text.replace("targets:", "environment: production\ntargets:", 1)
    assert loaded(chosen).plan.slo.mttr == Duration.parse("30s")


def test_a_probe_of_a_where_looks_at_one_node() -> None:
    text = SHOP.replace(
        "web: {labels: [role=web], pick: one}",
        'web: {all: true, where: "role.text contains leader"}',
    ).replace("probes:", 'probes:\n  role: {count: {url: "http://${node.address}/${node.name}"}}')
    shop = loaded(text)
    assert set(shop.probes) == {"shop"}
    assert shop.probe_on("web", "n2", "10.0.0.2").hosts() == ("http://10.0.0.2/n2",)
    assert "looks at one node each" in refused(
        text.replace("during: [", 'during: ["role.value > 1", ')
    )
    assert "for the probe of a target's `where` only" in refused(
        SHOP.replace('"${url}"', '"http://${node.address}/${url}"')
    )


# ── mistakes ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title:", "titel:", "shop.yaml:1:titel: unknown field 'titel' (did you mean 'title'?)"),
        ("delay: 50ms, url", "delay: 50, url", "shop.yaml:17:timeline[0].with.delay: network."),
        ("for: 60s", "for: 301s", "timeline[0].for: 301s is longer than any fault may be"),
        ("for: 60s", "for: 0s", "shop.yaml:17:timeline[0].for: must be above 0s"),
        ("for: 60s, ", "", "timeline[0].for: is required"),
        ("at: 0s", "at: 4000s", "shop.yaml:17:timeline[0]: ends at 4060s, after 60m"),
        ("network.latency", "network.latenzy", "[0].fault: unknown fault 'network.latenzy'"),
        ("network.latency", "network.latenzy", "did you mean 'network.latency'?"),
        ("peers: 10.0.0.7", "peer: 10.0.0.7", "unknown parameter 'peer' (did you mean 'peers'?)"),
        ("on: web", "on: wep", "shop.yaml:17:timeline[0].on: there is no target 'wep'"),
        ("on: web", "web: on", "unknown field 'web'"),
        ("at: 0s, for", "at: 0s, at: 1s, for", "timeline[0].at is there twice"),
        ("fault: network.latency, on: web, ", "", "an item is one of: fault, ramp"),
        ("shop: {look:", "shop: {lock:", "probes.shop.lock: unknown kind of probe 'lock'"),
        ("rate: 20", "rate: fast", "shop.yaml:10:probes.shop.look.rate: Input should be a valid"),
        ("rate: 20", "rat: 20", "unknown field 'rat'\n  → did you mean 'rate'?"),
        ('url: "${url}"', 'method: "${url}"', "probes.shop.look.url: is required"),
        ("shop.p99 < 100ms", "shop.p98 < 100ms", "shop.yaml:11:steady_state[1]: 'shop.p98"),
        ("shop.p99 < 100ms", "shap.p99 < 100ms", "there is no probe 'shap'\n  → did you mean"),
        ("shop.p99 < 100ms", "shop.p99 < 100", "see are durations, like 150ms"),
        ("shop.p99 < 100ms", "shop.p99 > 200ms", "whenever it holds, the run is aborted by"),
        ("shop.p99 < 100ms", "shop.p99 < 200ms", "holds also where the run is aborted by"),
        ("shop.error_rate < 1%", "shop.error_rate > 1%", "%' whenever it holds"),
        ("health < 90", "health < 0", "can never tell anything"),
        ("rate: 20", "interval: 6s", "0.1%': its probe looks every 6s, and its window is 5s"),
        ("rate: 20", "interval: 6s", "shop.yaml:13:abort_when[0]: 'shop.error_rate > 0.5% for"),
        ("stable: 5s", "stable: 50s", "shop.yaml:14:recovery: stable 50s is longer than within"),
        ("error_rate: 1%", "error_rate: 1", "shop.yaml:15:slo.error_rate: '1' has no unit"),
        ("availability: 99%", "availability: 101%", "availability is at most 100%"),
        ("labels: [role=web]", "label: [role=web]", "shop.yaml:8:targets.web.label: unknown field"),
        ("labels: [role=web]", "labels: [web]", "'web' is not a label like role=web"),
        ("labels: [role=web], ", "", "give one of names, labels"),
        ("pick: one", "pick: few", "targets.web.pick: 'few' is not one of: all, one, random 2"),
        ('delay: "${delay}"', 'delay: "${dalay}"', "${dalay} is not declared in params"),
        ('delay: "${delay}"', "delay: 5ms", "shop.yaml:4:params.delay: param 'delay' is not used"),
        ("light: {delay", "light: {dely", "shop.yaml:5:levels.light.dely: there is no"),
        ("  web:", "  db: {all: true}\n  web:", "shop.yaml:8:targets.db: target 'db' is not used"),
        ("  shop:", "  db: {look: {url: x}}\n  shop:", "probes.db: no condition asks probe 'db'"),
        ("{look: {", "{mode: end, look: {", "10:probes.shop: a probe has exactly one kind"),
        ("rate: 20", "rate: 20, mode: end", "its probe's mode is end, which sees nothing then"),
        ("tags: [network, ", "tags: [&a network, ", "yaml:3: anchors and aliases are not read"),
        ("tags: [network, ", "tags: [!!int 5, ", "shop.yaml:3: tags like"),
        ("tags: [network, ", "tags: [[network, ", "not YAML"),
        ("slo: {", "slo: [{", "not YAML"),
    ],
)  # fmt: skip
def test_every_mistake_is_named_with_its_place(old: str, new: str, says: str) -> None:
    assert old in SHOP
    shown = refused(SHOP.replace(old, new, 1))
    assert says in shown
    assert shown.startswith("shop.yaml:")


def test_a_condition_of_another_unit_is_refused() -> None:
    text = SHOP.replace("{look:", "{count:").replace("shop.p99 > 150ms for 3s", "health < 80")
    assert "numbers without a time" in refused(text)


def test_several_mistakes_are_said_at_once_in_the_order_of_the_file() -> None:
    text = SHOP.replace("title", "titel").replace("rate: 20", "rat: 2").replace("p99 <", "p9 <")
    text = text.replace("peers:", "pears:").replace("mttr: 30s", "mttr: 30")
    shown = refused(text)
    assert "7 problems" in shown  # a missing title and missing peers among them
    lines = [line.split(":")[1] for line in shown.splitlines()[1:]]
    assert lines == sorted(lines, key=int)
    many = SHOP.replace("slo: {", "slo: {a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7, h: 8, i: 9, ")
    assert "9 problems" in refused(many)
    assert "and 1 more" in refused(many)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"settings": {"dely": "5ms"}}, "--set dely: there is no such param"),
        ({"level": "medium"}, "there is no level 'medium'"),
        ({"environment": "production"}, "there is no environment 'production'"),
        ({"settings": {"delay": "fast"}}, "timeline[0].with.delay"),
    ],
)
def test_what_the_operator_adds_is_checked(how: dict[str, Any], says: str) -> None:
    assert says in refused(SHOP, **how)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ("- pause: 5s", "nothing is done in it"),
        (
            "- repeat: {times: 3, every: 5s, do: [{for: 6s, fault: cache.flush}]}",
            "timeline[0].repeat.every: a round takes 6s, and one begins every 5s",
        ),
        (
            "- repeat: {times: 51, do: [{for: 1s, fault: cache.flush}, {hook: flush, for: 1s}]}",
            "more than 100 steps",
        ),
        (
            "- repeat: {times: 100, do: [repeat: {times: 100, do: [pause: 1us]}]}",
            "more items than can be",
        ),
        (
            "- {for: 5s, fault: cpu.stress, ramp: {param: percent, from: 1%, to: 5s}}",
            "ramp",
        ),
        (
            "- {for: 5s, fault: cpu.stress, ramp: {param: percents, from: 1%, to: 5%}}",
            "timeline[0].ramp.param: cpu.stress has no parameter 'percents'",
        ),
        ("- {for: 5s, fault: cpu.stress, ramp: {param: percent, from: 1%, to: 101%}}", "ramp"),
        ("- {for: 5s, fault: cpu.stress, with: {percent: 101%}}", "timeline[0].with.percent"),
        ("- parallel: [{for: 5s, fault: cpu.stress}]", "timeline[0].parallel[0].with.percent"),
        ("- repeat: {times: 0, do: [pause: 1s]}", "timeline[0].repeat.times"),
        ("- repeat: {time: 1, do: [pause: 1s]}", "unknown field 'time' (did you mean 'times'?)"),
        ("- {hook: a b}", "timeline[0].hook: hook: 'a b' is not a hook's name"),
        ("- {hook: a, for: 5s, with: {}}", "timeline[0].with: unknown field 'with'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_timeline(items: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        with_timeline(items + "\n")
    assert says in str(caught.value)


def test_a_document_is_bounded() -> None:
    assert "longer than 256 KiB" in refused("title: " + "x" * 262_144)
    assert "nested more than 16 deep" in refused("title: " + "[" * 5000)
    assert "more than 4000 values" in refused("title: [" + "a, " * 4001 + "a]")
    names = ", ".join(f"k{number}: 1" for number in range(101))
    assert "yaml:1:params: more than 100" in refused("params: {" + names + "}\n")
    assert "20 problems or more" in refused("title: x\n" + names.replace(", ", "\n"))
    assert "longer than 4096 characters" in refused("params: {a: " + "x" * 4097 + "}\n")
    much = "params: {a: " + "x" * 4096 + "}\ntags: ["
    assert "too long with its params" in refused(much + '"${a}", ' * 300 + "]\n")
    assert "a second document" in refused("a: 1\n---\nb: 2\n")
    assert "no fields" in refused("")
    assert "no fields" in refused("- a\n- b\n")


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
def test_characters_that_do_not_exist_are_refused(
    loader: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_LOADER", loader)
    for text in ('title: "\\ud800"', 'title: "\\U00110000"', "title: \x07", "title: \ud800"):
        assert refused(text).startswith("shop.yaml")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_written_ends_in_a_plan_or_in_words(data: st.DataObject) -> None:
    """A random line of a good file gives way to whatever; nothing else than InvalidInput."""
    lines = SHOP.splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    key = lines[number].split(":")[0]
    value = data.draw(
        st.sampled_from(["", "[]", "{}", "[[]]", "{a: {b: [c]}}", "- x", "5", "[1, {at: 1}]", "${"])
        | st.text(max_size=20)
    )
    lines[number] = f"{key}: {value}"
    where = "shop.yaml"
    try:
        loaded("\n".join(lines) + "\n")
    except InvalidInput as error:
        where = error.where
    assert where.startswith("shop.yaml")
