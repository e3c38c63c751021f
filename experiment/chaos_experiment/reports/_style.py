"""The pages' style sheet. Colours are told apart by people who see few of them."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1c2024; --faint: #5b6570; --rule: #d9dee3; --panel: #f5f7f9;
  --main: #0b57b0; --second: #7a4fb5; --third: #0f766e; --good: #17703a; --bad: #b3261e;
  --fault: #f2b84b; --old: #7b8794 }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --ink: #e6e9ec; --faint: #9aa5b1; --rule: #323a42; --panel: #1d2226;
  --main: #6cb2ff; --second: #c7a6ff; --third: #5eead4; --good: #6fd695; --bad: #ff8a80;
  --fault: #c9932f; --old: #8894a0 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 920px; margin: 0 auto; padding: 20px 16px 48px }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .4em 0 .6em; overflow-wrap: anywhere }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 1.6em 0 .5em; overflow-wrap: anywhere }
h3 { font-size: 1.05rem; margin: 1.8em 0 .5em }
a { color: var(--main); white-space: nowrap }
.lead { color: var(--faint); overflow-wrap: anywhere }
.banner { border: 1px solid var(--rule); border-left: 8px solid var(--kind);
  background: var(--panel); padding: 10px 14px; border-radius: 4px; overflow-wrap: anywhere }
.banner p { margin: 0 } .banner strong { color: var(--kind); margin-right: .4em }
.banner .sample { color: var(--faint); margin-top: 4px; font-size: .93em }
.passed { --kind: var(--good) } .failed, .aborted { --kind: var(--bad) }
.interrupted, .refused { --kind: var(--fault) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 8px;
  margin: 16px 0 }
.tiles div { border: 1px solid var(--rule); border-radius: 4px; padding: 8px 12px }
.tiles dt { color: var(--faint); font-size: .85em }
.tiles dd { margin: 0; font-size: 1.1em; font-weight: 600; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .93em }
th { text-align: left; color: var(--faint); font-weight: 600; white-space: nowrap }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top }
td { overflow-wrap: break-word; min-width: 4.5em }
td.figure { font-variant-numeric: tabular-nums; white-space: nowrap }
.good { color: var(--good); white-space: nowrap } .bad { color: var(--bad); white-space: nowrap }
figure { margin: 18px 0 }
figcaption { margin-bottom: 4px } figcaption .key { margin-left: 14px; color: var(--faint);
  white-space: nowrap } figcaption svg { vertical-align: middle; margin-right: 5px }
svg.wide, svg.narrow { display: block; width: 100%; height: auto }
svg.narrow { display: none }
svg text { font-size: 12px; fill: var(--faint); font-variant-numeric: tabular-nums }
svg text.label { fill: var(--ink) } svg text.mark { fill: var(--bad); font-weight: 600 }
svg .grid { stroke: var(--rule) } svg .axis { stroke: var(--faint) }
svg rect.fault { fill: var(--fault); fill-opacity: .18; stroke: var(--fault);
  stroke-dasharray: 3 3 }
svg line.phase { stroke: var(--faint); stroke-dasharray: 1 3 }
svg line.mark { stroke: var(--bad); stroke-width: 1.5 }
svg rect.bar.phase { fill: var(--panel); stroke: var(--rule) }
svg rect.bar.fault { fill-opacity: .35; stroke-dasharray: none }
svg rect.amount { fill: var(--main) }
svg .line { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: miter }
svg .area { fill: var(--c); fill-opacity: .2; stroke: none }
svg .main { --c: var(--main) } svg .second { --c: var(--second) } svg .third { --c: var(--third) }
svg .good { --c: var(--good) } svg .bad { --c: var(--bad) } svg .old { --c: var(--old) }
svg .line.second { stroke-dasharray: 5 3 } svg .line.third { stroke-dasharray: 1.5 3 }
svg .line.old { stroke-dasharray: 8 3 2 3; stroke-width: 1.4 }
.run { border-top: 3px solid var(--rule); margin-top: 40px }
@media (max-width: 560px) { svg.wide { display: none } svg.narrow { display: block }
  figcaption .key { margin: 0 10px 0 0 } main { padding: 12px 12px 32px } }
@media print { :root { --paper: #fff; --ink: #000; --faint: #444; --rule: #bbb; --panel: #fff;
    --main: #0b57b0; --second: #7a4fb5; --third: #0f766e; --good: #17703a; --bad: #b3261e;
    --fault: #f2b84b; --old: #7b8794 }
  body { font-size: 11px } main { max-width: none; padding: 0 }
  svg.wide { display: block } svg.narrow { display: none } .scroll { overflow: visible }
  figure, .banner, tr { break-inside: avoid } h2, h3 { break-after: avoid }
  .run { break-before: page; border: 0 } }
"""
