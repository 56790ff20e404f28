"""The report page's one style sheet: light and dark by the reader's preference, one column on a phone."""

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f6f3; --surface: #fcfcfb; --ink: #0b0b0b; --ink-2: #52514e; --ink-3: #75736c; --grid: #e1e0d9;
  --edge: rgba(11,11,11,.12); --c1: #2a78d6; --c2: #eb6834; --c3: #1baf7a; --c4: #eda100; --c5: #e87ba4;
  --c6: #008300; --c7: #4a3aa7; --c8: #e34948; --good: #006300; --bad: #c22f2f; --warn: #8a5a00; --heat: #2a78d6;
  --bad-ground: rgba(208,59,59,.10); --good-ground: rgba(12,163,12,.10); --warn-ground: rgba(250,178,25,.16); }
@media (prefers-color-scheme: dark) { :root {
  --page: #0d0d0d; --surface: #1a1a19; --ink: #ffffff; --ink-2: #c3c2b7; --ink-3: #98968e; --grid: #2f2f2c;
  --edge: rgba(255,255,255,.14); --c1: #3987e5; --c2: #d95926; --c3: #199e70; --c4: #c98500; --c5: #d55181;
  --c6: #3ba03b; --c7: #9085e9; --c8: #e66767; --good: #4fc34f; --bad: #f07a7a; --warn: #f0b94a; --heat: #5598e7;
  --bad-ground: rgba(230,103,103,.16); --good-ground: rgba(12,163,12,.18); --warn-ground: rgba(250,178,25,.16); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; } h2 { font-size: 19px; margin: 32px 0 10px; }
h3 { font-size: 15px; margin: 0 0 2px; } p { margin: 0 0 8px; }
.quiet { color: var(--ink-2); font-size: 13px; }
section.card { background: var(--surface); border: 1px solid var(--edge); border-radius: 8px; padding: 14px 16px;
  margin: 0 0 14px; min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 14px 0; }
.tile { background: var(--surface); border: 1px solid var(--edge); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 22px; line-height: 1.25; font-weight: 600; overflow-wrap: anywhere; }
.tile span { color: var(--ink-2); font-size: 12.5px; }
ul.story { margin: 0; padding-left: 20px; } ul.story li { margin: 0 0 6px; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible { outline: 2px solid var(--c1); }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 7px; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { color: var(--ink-2); font-weight: 600; } td.left, th.left { text-align: left; vertical-align: top; }
td.wrap { white-space: normal; min-width: 220px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit; fill: var(--ink-2); }
.tick, .mark { font-size: 11px; } .label { font-size: 11.5px; }
.value { font-size: 11.5px; fill: var(--ink) !important; }
.grid { stroke: var(--grid); stroke-width: 1; }
.line { fill: none; stroke: var(--c1); stroke-width: 2; stroke-linejoin: round; }
.dot { fill: var(--c1); stroke: var(--surface); stroke-width: 1.5; }
.range { fill: var(--c1); fill-opacity: .35; } .heat { fill: var(--heat); }
.void { fill: none; stroke: var(--grid); stroke-dasharray: 2 2; }
.rejected { fill: none; stroke: var(--c2); stroke-width: 2; }
.s1 { fill: var(--c1); background: var(--c1); } .s2 { fill: var(--c2); background: var(--c2); }
.s3 { fill: var(--c3); background: var(--c3); } .s4 { fill: var(--c4); background: var(--c4); }
.s5 { fill: var(--c5); background: var(--c5); } .s6 { fill: var(--c6); background: var(--c6); }
.s7 { fill: var(--c7); background: var(--c7); } .s8 { fill: var(--c8); background: var(--c8); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 12.5px; color: var(--ink-2); margin: 8px 0 0; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px;
  vertical-align: -1px; }
.legend i.rejected { background: none; border: 2px solid var(--c2); } .legend i.heat { background: var(--heat); }
.legend i.void { border: 1px dashed var(--ink-3); }
.badge { display: inline-block; padding: 1px 8px; border-radius: 10px; font-size: 12.5px; font-weight: 600; }
.bad { color: var(--bad); background: var(--bad-ground); } .good { color: var(--good); background: var(--good-ground); }
.warn { color: var(--warn); background: var(--warn-ground); }
details { margin: 10px 0 0; } summary { cursor: pointer; color: var(--ink-2); font-size: 13px; }
.sum { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
@media (max-width: 560px) { main { padding: 14px 10px 40px; } h1 { font-size: 22px; }
  section.card { padding: 12px 10px; } .tiles { grid-template-columns: 1fr 1fr; } .tile b { font-size: 18px; } }
@media print { body { background: none; } section.card { break-inside: avoid; } }
"""
