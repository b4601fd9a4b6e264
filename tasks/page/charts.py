"""Charts as SVG that is part of the page: no script draws them, and they are there at once.

Colours and type are those of the page's style sheet, so a chart follows it into dark mode and onto
paper. What a mark stands for is in its `<title>`, which browsers show on hover and screen readers
read. A chart that holds figures that are nowhere else has them in a table beside it.

Coordinates are in pixels of the view box; a chart is as wide as its place.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, a value for each place (None leaves a gap), its class."""

    name: str
    values: Values
    style: str = "main"  # main, other, limit, usual


@dataclass(frozen=True)
class Dot:
    """One intent on the map."""

    x: float
    y: float
    size: float  # share of users
    name: str
    title: str
    href: str
    style: str = ""


@dataclass(frozen=True)
class Ribbon:
    """Users who went from one place on the left to one on the right."""

    left: str
    right: str
    users: int
    style: str = ""


def spark(values: Values, label: str, *, width: int = 96, height: int = 24) -> Markup:
    """Draw a line of the size of a word; its last point is marked.

    label: what it shows and how it goes, for those who do not see it.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return Markup('<span class="muted" title="{}">&ndash;</span>').format(label)
    low, high = min(known), max(known)
    edge = 3.0
    step = (width - 2 * edge) / (len(values) - 1)

    def place(at: int, value: float) -> tuple[float, float]:
        share = (value - low) / (high - low) if high > low else 0.5
        return edge + at * step, height - edge - share * (height - 2 * edge)

    points = [None if one is None else place(at, one) for at, one in enumerate(values)]
    last = next(point for point in reversed(points) if point)
    return Markup(
        '<svg class="spark" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-label="{label}"><title>{label}</title><path class="line main" d="{path}"/>'
        '<circle class="dot" cx="{x}" cy="{y}" r="2.5"/></svg>'
    ).format(w=width, h=height, label=label, path=_path(points), x=_px(last[0]), y=_px(last[1]))


def bar(share: float, label: str, *, mark: float | None = None, width: int = 96) -> Markup:
    """Draw a share of 1 as a bar of the size of a word; `mark` is a share to hold it against."""
    height = 10
    tick = Markup("")
    if mark is not None:
        at = _px(min(max(mark, 0.0), 1.0) * width)
        tick = Markup('<line class="mark" x1="{x}" x2="{x}" y1="0" y2="{h}"/>').format(
            x=at, h=height
        )
    return Markup(
        '<svg class="bar" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-label="{label}"><title>{label}</title>'
        '<rect class="track" width="{w}" height="{h}" rx="2"/>'
        '<rect class="fill" width="{x}" height="{h}" rx="2"/>{tick}</svg>'
    ).format(w=width, h=height, label=label, x=_px(min(max(share, 0.0), 1.0) * width), tick=tick)


def lines(
    places: Sequence[str],
    series: Sequence[Line],
    label: str,
    *,
    tell: Mapping[str, Sequence[str]] | None = None,
    width: int = 720,
    height: int = 220,
    from_zero: bool = True,
    unit: str = "",
    per_cent: bool = False,
) -> Markup:
    """Draw lines over nights (or epochs), each with its name at its end.

    Parameters
    ----------
    places
        What stands below each point, for example a date; the first, the last and some between are
        written.
    tell
        For each line a text a point, shown on hover; by default its value.
    from_zero
        Whether the axis begins at 0. Counts and shares do, so that a small change looks small.
    """
    known = [value for line in series for value in line.values if value is not None]
    if not known or not places:
        return Markup("")
    low, high = (0.0 if from_zero else min(known)), max(known)
    ticks = _ticks(low, high, per_cent=per_cent)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    left, right, top, bottom = 48.0, 120.0, 10.0, 24.0
    wide, tall = width - left - right, height - top - bottom

    def across(at: int) -> float:
        return left + (wide * at / (len(places) - 1) if len(places) > 1 else wide / 2)

    def up(value: float) -> float:
        return top + tall * (1 - (value - low) / (high - low or 1))

    parts = [
        Markup(
            '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">'
            "<title>{label}</title>"
        ).format(w=width, h=height, label=label)
    ]
    for tick in ticks:
        written = f"{100 * tick:g} %" if per_cent else _short(tick) + unit
        parts.append(
            Markup(
                '<line class="grid" x1="{l}" x2="{r}" y1="{y}" y2="{y}"/>'
                '<text class="tick" x="{t}" y="{y}" dy="4" text-anchor="end">{written}</text>'
            ).format(l=left, r=_px(left + wide), t=left - 8, y=_px(up(tick)), written=written)
        )
    every = max(1, math.ceil(len(places) / 6))
    for at, place in enumerate(places):
        last = at == len(places) - 1
        # The last one is always written; one that would touch it is not.
        if last or (at % every == 0 and len(places) - 1 - at >= every * 0.7):
            anchor = "end" if last and len(places) > 1 else ("start" if at == 0 else "middle")
            parts.append(
                Markup(
                    '<text class="tick" x="{x}" y="{y}" text-anchor="{anchor}">{place}</text>'
                ).format(x=_px(across(at)), y=height - 6, anchor=anchor, place=place)
            )
    ends: list[tuple[float, Line]] = []
    for line in series:
        points = [
            None if value is None else (across(at), up(value))
            for at, value in enumerate(line.values)
        ]
        parts.append(
            Markup('<path class="line {style}" d="{path}"/>').format(
                style=line.style, path=_path(points)
            )
        )
        told = (tell or {}).get(line.name)
        for at, (point, value) in enumerate(zip(points, line.values, strict=True)):
            if point is None or value is None or line.style == "limit":
                continue
            words = told[at] if told else f"{100 * value:.1f} %" if per_cent else _short(value)
            size = 3 if at == len(points) - 1 else 2
            parts.append(
                Markup(
                    '<g class="point {style}"><title>{name}, {place}: {words}</title>'
                    '<circle class="reach" cx="{x}" cy="{y}" r="9"/>'
                    '<circle class="dot" cx="{x}" cy="{y}" r="{size}"/></g>'
                ).format(
                    style=line.style,
                    name=line.name,
                    place=places[at],
                    words=words,
                    x=_px(point[0]),
                    y=_px(point[1]),
                    size=size,
                )
            )
        if final := next((point for point in reversed(points) if point), None):
            ends.append((final[1], line))
    for y, line in _apart(ends, least=14.0, top=top + 4, bottom=top + tall + 4):
        parts.append(
            Markup('<text class="name {style}" x="{x}" y="{y}" dy="4">{name}</text>').format(
                style=line.style, x=_px(left + wide + 8), y=_px(y), name=_cut(line.name, 18)
            )
        )
    return _drawn(parts)


def intervals(
    rows: Sequence[tuple[str, float, float, float, float | None, bool]],
    label: str,
    *,
    width: int = 720,
) -> Markup:
    """Draw changes with their intervals on one scale, a row each.

    rows: what is compared, estimate, low, high, the limit (None: there is none), and whether the
    rule is met; all as shares.
    """
    known = [
        value for row in rows for value in row[1:5] if value is not None and math.isfinite(value)
    ]
    if not known:
        return Markup("")
    low, high = min(0.0, *known), max(0.0, *known)
    pad = 0.06 * (high - low or 1)
    low, high = low - pad, high + pad
    left, right, row_height, top = 250.0, 20.0, 30.0, 8.0
    wide = width - left - right
    height = top + row_height * len(rows) + 24

    def across(value: float) -> float:
        return left + wide * (min(max(value, low), high) - low) / (high - low)

    zero = _px(across(0.0))
    parts = [
        Markup(
            '<svg class="chart intervals" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">'
            '<title>{label}</title><line class="zero" x1="{x}" x2="{x}" y1="{t}" y2="{b}"/>'
        ).format(w=width, h=_px(height), label=label, x=zero, t=top, b=_px(height - 22))
    ]
    for at, (what, estimate, lowest, highest, limit, met) in enumerate(rows):
        y = top + row_height * (at + 0.5)
        style = "" if met else " bad"
        words = f"{what}: {estimate:+.1%}, from {lowest:+.1%} to {highest:+.1%}"
        if limit is not None:
            words += f"; refused below {limit:+.1%}"
            parts.append(
                Markup('<line class="limit" x1="{x}" x2="{x}" y1="{a}" y2="{b}"/>').format(
                    x=_px(across(limit)), a=_px(y - 11), b=_px(y + 11)
                )
            )
        parts.append(
            Markup(
                '<g class="interval{style}"><title>{words}</title>'
                '<rect class="reach" x="{left}" y="{ry}" width="{wide}" height="24"/>'
                '<text class="what" x="{tx}" y="{y}" dy="4" text-anchor="end">{what}</text>'
                '<line x1="{a}" x2="{b}" y1="{y}" y2="{y}"/><circle cx="{c}" cy="{y}" r="4.5"/></g>'
            ).format(
                style=style,
                words=words,
                left=left,
                ry=_px(y - 12),
                wide=_px(wide),
                tx=left - 14,
                y=_px(y),
                what=_cut(what, 34),
                a=_px(across(lowest)),
                b=_px(across(highest)),
                c=_px(across(estimate)),
            )
        )
    for tick in _ticks(low + pad, high - pad, per_cent=True, most=5):
        if not low <= tick <= high:
            continue
        parts.append(
            Markup('<text class="tick" x="{x}" y="{y}" text-anchor="middle">{t}</text>').format(
                x=_px(across(tick)), y=_px(height - 6), t=f"{100 * tick:+g} %" if tick else "0"
            )
        )
    return _drawn(parts)


def dots(
    points: Iterable[Dot], label: str, *, named: int = 14, width: int = 640, height: int = 560
) -> Markup:
    """Draw the map of intents: a circle each, its area the share of users, a link to the intent.

    The corners of the map are those of all points, and at least -1 and 1, so that a place is the
    same spot as long as no intent is born outside. The largest `named` intents have their names
    beside them, where there is room.
    """
    drawn = sorted(points, key=lambda one: -one.size)
    if not drawn:
        return Markup("")
    reach_x = max(1.0, *(abs(one.x) for one in drawn)) * 1.08
    reach_y = max(1.0, *(abs(one.y) for one in drawn)) * 1.08
    largest = drawn[0].size or 1
    most = min(46.0, max(20.0, 210 / math.sqrt(len(drawn))))  # radius of the largest
    margin = most + 6

    def spot(one: Dot) -> tuple[float, float, float]:
        x = margin + (width - 2 * margin) * (one.x / reach_x + 1) / 2
        y = margin + (height - 2 * margin) * (1 - (one.y / reach_y + 1) / 2)
        return x, y, max(3.0, most * math.sqrt(one.size / largest))

    parts = [
        Markup(
            '<svg class="chart map" viewBox="0 0 {w} {h}" role="group" aria-label="{label}">'
        ).format(w=width, h=height, label=label)
    ]
    labels: list[tuple[float, float, float, float]] = []
    names = []
    for at, one in enumerate(drawn):
        x, y, radius = spot(one)
        parts.append(
            Markup(
                '<a href="{href}" class="place {style}" aria-label="{title}"><title>{title}</title>'
                '<circle cx="{x}" cy="{y}" r="{r}"/></a>'
            ).format(
                href=one.href, style=one.style, title=one.title, x=_px(x), y=_px(y), r=_px(radius)
            )
        )
        if at >= named:
            continue
        words = _cut(one.name, 24)
        half = 3.4 * len(words)
        for dy in (radius + 14, -radius - 6, 4.0):
            middle = min(max(x, half + 2), width - half - 2)
            box = (middle - half, y + dy - 12, middle + half, y + dy + 3)
            if box[1] < 0 or box[3] > height or any(_touch(box, other) for other in labels):
                continue
            labels.append(box)
            names.append(
                Markup(
                    '<text class="place-name" x="{x}" y="{y}" text-anchor="middle">{n}</text>'
                ).format(x=_px(middle), y=_px(y + dy), n=words)
            )
            break
    return Markup("").join([*parts, *names, Markup("</svg>")])


def ribbons(
    flows: Sequence[Ribbon],
    label: str,
    *,
    hrefs: Mapping[str, str] | None = None,
    width: int = 720,
    least: int = 220,
) -> Markup:
    """Draw who went from where (left) to where (right), as ribbons as thick as they are many."""
    flows = [flow for flow in flows if flow.users > 0]
    if not flows:
        return Markup("")
    total = sum(flow.users for flow in flows)
    sides = []
    for names in ([flow.left for flow in flows], [flow.right for flow in flows]):
        sums: dict[str, int] = {}
        for name, flow in zip(names, flows, strict=True):
            sums[name] = sums.get(name, 0) + flow.users
        sides.append(dict(sorted(sums.items(), key=lambda one: (-one[1], one[0]))))
    rows = max(map(len, sides))
    gap, top, node, margin = 12.0, 8.0, 10.0, 210.0
    height = max(least, 30 * rows + 20)
    scale = (height - 2 * top - gap * (rows - 1)) / total
    starts: list[dict[str, float]] = []
    parts = [
        Markup(
            '<svg class="chart flows" viewBox="0 0 {w} {h}" role="{role}" aria-label="{label}">'
        ).format(w=width, h=height, label=label, role="group" if hrefs else "img")
    ]
    for side, sums in enumerate(sides):
        # Few nodes are spread over the height, so that their names have room.
        used = scale * total
        between = (height - 2 * top - used) / max(1, len(sums) - 1) if len(sums) > 1 else 0
        y = top if len(sums) > 1 else (height - used) / 2
        starts.append({})
        for name, users in sums.items():
            starts[side][name] = y
            x = margin if side == 0 else width - margin - node
            tall = max(1.5, scale * users)
            text = Markup(
                '<text class="node-name" x="{x}" y="{y}" dy="4" text-anchor="{a}">{name}'
                '<tspan class="muted"> {users}</tspan></text>'
            ).format(
                x=_px(x - 8 if side == 0 else x + node + 8),
                y=_px(y + tall / 2),
                a="end" if side == 0 else "start",
                name=_cut(name, 22),
                users=f"{users:,}",
            )
            if hrefs and name in hrefs:
                text = Markup('<a href="{href}">{text}</a>').format(href=hrefs[name], text=text)
            parts.append(
                Markup(
                    '<rect class="node" x="{x}" y="{y}" width="{w}" height="{h}" rx="2"/>{text}'
                ).format(x=_px(x), y=_px(y), w=node, h=_px(tall), text=text)
            )
            y += scale * users + between
    at = [dict(one) for one in starts]
    left_x, right_x = margin + node, width - margin - node
    middle = (left_x + right_x) / 2
    order = {name: rank for rank, name in enumerate(sides[1])}
    back = {name: rank for rank, name in enumerate(sides[0])}
    placed: dict[tuple[str, str], list[float]] = {}
    for flow in sorted(flows, key=lambda one: (back[one.left], order[one.right])):
        placed[flow.left, flow.right] = [at[0][flow.left], 0.0]
        at[0][flow.left] += scale * flow.users
    for flow in sorted(flows, key=lambda one: (order[one.right], back[one.left])):
        placed[flow.left, flow.right][1] = at[1][flow.right]
        at[1][flow.right] += scale * flow.users
    for flow in flows:
        a, b = placed[flow.left, flow.right]
        thick = max(0.75, scale * flow.users)
        parts.append(
            Markup(
                '<path class="ribbon {style}" d="M{x0} {a}C{m} {a} {m} {b} {x1} {b}L{x1} {b2}'
                'C{m} {b2} {m} {a2} {x0} {a2}Z"><title>{words}</title></path>'
            ).format(
                style=flow.style,
                x0=_px(left_x),
                x1=_px(right_x),
                m=_px(middle),
                a=_px(a),
                b=_px(b),
                a2=_px(a + thick),
                b2=_px(b + thick),
                words=f"{flow.left} → {flow.right}: {flow.users:,} users",
            )
        )
    return _drawn(parts)


def _drawn(parts: Iterable[Markup]) -> Markup:
    """Close a chart, and let it be moved sideways where the screen is narrower than it can be."""
    return Markup('<div class="drawn">{}</svg></div>').format(Markup("").join(parts))


def _px(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _path(points: Iterable[tuple[float, float] | None]) -> str:
    """Join points by straight lines; None leaves a gap."""
    found, pen_up = [], True
    for point in points:
        if point is None:
            pen_up = True
            continue
        found.append(f"{'M' if pen_up else 'L'}{_px(point[0])} {_px(point[1])}")
        pen_up = False
    return "".join(found)


def _ticks(low: float, high: float, *, per_cent: bool = False, most: int = 4) -> list[float]:
    """Return up to `most` + 1 round values that span low to high."""
    span = high - low
    if span <= 0:
        return [low, low + (abs(low) or 1)]
    rough = span / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * of for of in (1, 2, 5, 10) if size * of >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    if per_cent and low >= 0 and high <= 1:
        last = min(last, math.floor(1 / step + 1e-9))
    return [round(at * step, 12) for at in range(first, max(last, first + 1) + 1)]


def _short(value: float) -> str:
    """Write a value for an axis: 12k, 3.5M, 0.25."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, None)):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}" if letter else f"{value / 1e3:.4g}k"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def _apart(
    ends: list[tuple[float, Line]], *, least: float, top: float, bottom: float
) -> list[tuple[float, Line]]:
    """Move the names at the ends of lines so far apart that none covers another."""
    placed: list[tuple[float, Line]] = []
    for y, line in sorted(ends, key=lambda one: one[0]):
        at = max(y, placed[-1][0] + least if placed else top)
        placed.append((at, line))
    over = placed[-1][0] - bottom if placed else 0
    return [(y - max(0.0, over), line) for y, line in placed]


def _touch(one: tuple[float, float, float, float], two: tuple[float, float, float, float]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"
