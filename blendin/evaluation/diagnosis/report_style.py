"""The diagnostic page's frame and style: no request leaves it, light and dark, wide and narrow."""

from __future__ import annotations

# Background of a token by who chose it, from pale (α = 0) to full (α = 1).
SHADES = {
    "guide": ((255, 233, 214), (255, 140, 26)),
    "both": ((220, 238, 255), (64, 156, 255)),
}

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""


def css() -> str:
    """The page's style. Series have Okabe and Ito's colours, for colour-blind readers' sake."""
    shades = "".join(
        f"pre .{source},.legend .{source}{{background:color-mix(in srgb,rgb{full} var(--a),"
        f"rgb{pale});color:#141414}}\n"
        for source, (pale, full) in SHADES.items()
    )
    return CSS + shades


CSS = """
:root{color-scheme:light dark;--page:#fff;--ink:#1b1f24;--muted:#5b6570;--grid:#e3e7eb;
--card:#f5f7f9;--limit:#b3261e;--series-0:#0072b2;--series-1:#d55e00;--series-2:#009e73;
--series-3:#aa4499;--below:#00734f;--above:#b3261e;--undecided:#8a5a00}
@media (prefers-color-scheme:dark){:root{--page:#14171a;--ink:#e8eaed;--muted:#a3adb8;
--grid:#30363c;--card:#1e2327;--limit:#ff9a90;--series-0:#56b4e9;--series-1:#f0a030;
--series-2:#2ebf95;--series-3:#e39ac9;--below:#2ebf95;--above:#ff9a90;--undecided:#f0b94a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:68rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.1rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.4rem;margin:3rem 0 1rem;padding-top:1rem;border-top:2px solid var(--grid);
overflow-wrap:anywhere}
h3{font-size:1.1rem;margin:2.2rem 0 .6rem}
h4{font-size:.9rem;margin:1rem 0 .3rem;font-weight:600}
.kicker{margin:0;color:var(--muted)}
.note,figcaption{color:var(--muted);font-size:.875rem}
.verdict{border-left:.5rem solid;background:var(--card);padding:1rem 1.2rem;border-radius:.3rem}
.verdict p,.verdict ul{margin:.4rem 0;max-width:52rem}
.verdict.below{border-color:var(--below)}.verdict.above{border-color:var(--above)}
.verdict.undecided{border-color:var(--undecided)}
.verdict .word{font-size:1.6rem;font-weight:700;line-height:1.2;margin:0}
.below .word{color:var(--below)}.above .word{color:var(--above)}
.undecided .word{color:var(--undecided)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(12.5rem,1fr));gap:.7rem;
margin:1rem 0}
.cards div{background:var(--card);padding:.7rem .9rem;border-radius:.3rem}
.cards dt{font-size:.85rem;color:var(--muted)}
.cards dd{margin:0;font-size:1.25rem;font-weight:600}
.cards dd.note{font-size:.8rem;font-weight:400}
small{font-size:.75em;font-weight:400;color:var(--muted);white-space:nowrap}
figure{margin:0;max-width:44rem;min-width:0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:0 2rem}
svg{display:block;width:100%;height:auto}
svg *{stroke-linejoin:round;stroke-linecap:butt}
details{margin:.4rem 0}summary{cursor:pointer;font-size:.875rem}
.settings{margin-top:2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;margin:.5rem 0}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--grid)}
th:first-child{text-align:left;font-weight:400;overflow-wrap:break-word}
thead th,thead th:first-child{font-weight:600;vertical-align:bottom}
.settings td{text-align:left;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);padding:.8rem 1rem;
border-radius:.3rem;margin:0;font:.9rem/1.6 ui-monospace,monospace;max-height:24rem;overflow-y:auto}
pre span,.legend span{border-radius:.15rem;padding:.05rem 0}
.legend span{padding:.1rem .4rem;margin-right:.3rem;border:1px solid var(--grid)}
.base{text-decoration:underline dotted}
@media print{details{display:block}pre{max-height:none}}
"""
