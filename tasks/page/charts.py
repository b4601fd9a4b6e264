"""Charts as SVG that is part of the page: no script draws them, and they are there at once.

Colours and type are those of the page's style sheet, so a chart follows it into dark mode and onto
paper. What a mark stands for is in its `<title>`, which browsers show on hover and screen readers
read. A chart that holds figures that are nowhere else has them in a table beside it.

Coordinates are in pixels of the view box; a chart is as wide as its place. So that its text can be
read on a phone too, a chart is drawn twice: wide, and narrow with less beside it. The style sheet
shows the one that fits.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.page.zoom import QUARTERS, Part

Values = Sequence[float | None]
Interval = tuple[str, float, float, float, float | None, bool]  # a row of `intervals`
WHOLE = Part()
LETTER = 6.2  # pixels: about the width of one, on average
BROAD = 7.2  # the same in a broad type, for words that must not leave their frame
NARROW = 358  # pixels: the width of a phone, less its margins


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, a value for each place (None leaves a gap), its class."""

    name: str
    values: Values
    style: str = "main"  # main, other, limit, usual


@dataclass(frozen=True)
class Dot:
    """One intent on the map, its place from 0 to 1: to the right, and down."""

    x: float
    y: float
    size: float  # share of users
    name: str
    title: str
    href: str
    style: str = ""


@dataclass(frozen=True)
class Ribbon:
    """Moves of users: how many went from one place on the left to one on the right."""

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
    width: int = 1000,
    height: int = 240,
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
    if not places or not any(value is not None for line in series for value in line.values):
        return Markup("")
    drawn = (
        _lines(
            places,
            series,
            label,
            tell=tell or {},
            size=size,
            narrow=narrow,
            from_zero=from_zero,
            unit=unit,
            per_cent=per_cent,
        )
        for narrow, size in ((False, (width, height)), (True, (NARROW, 190)))
    )
    return Markup("").join(drawn)


def _lines(
    places: Sequence[str],
    series: Sequence[Line],
    label: str,
    *,
    tell: Mapping[str, Sequence[str]],
    size: tuple[int, int],
    narrow: bool,
    from_zero: bool,
    unit: str,
    per_cent: bool,
) -> Markup:
    width, height = size
    known = [value for line in series for value in line.values if value is not None]
    low, high = (0.0 if from_zero else min(known)), max(known)
    ticks = _ticks(low, high, per_cent=per_cent)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    left, right, top, bottom = 48.0, 120.0, 10.0, 24.0
    several = len(series) > 1
    legend = _legend([line.name for line in series], width) if narrow and several else []
    if narrow:  # the names are above the lines, not beside them
        left, right = 40.0, 8.0
        top += max((y + 8 for _, y in legend), default=0.0)
    wide, tall = width - left - right, height - top - bottom

    def across(at: int) -> float:
        return left + (wide * at / (len(places) - 1) if len(places) > 1 else wide / 2)

    def up(value: float) -> float:
        return top + tall * (1 - (value - low) / (high - low or 1))

    parts = [
        Markup(
            '<svg class="chart {fits}" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">'
            "<title>{label}</title>"
        ).format(fits=_fits(narrow), w=width, h=height, label=label)
    ]
    for tick in ticks:
        written = f"{100 * tick:g} %" if per_cent else _short(tick) + unit
        parts.append(
            Markup(
                '<line class="grid" x1="{l}" x2="{r}" y1="{y}" y2="{y}"/>'
                '<text class="tick" x="{t}" y="{y}" dy="4" text-anchor="end">{written}</text>'
            ).format(l=left, r=_px(left + wide), t=left - 8, y=_px(up(tick)), written=written)
        )
    # Evenly, counted from the last one, which is always written.
    every = max(1, math.ceil(len(places) / max(2, int(wide / 90))))
    for at, place in enumerate(places):
        last = at == len(places) - 1
        if (len(places) - 1 - at) % every == 0:
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
        told = tell.get(line.name)
        for at, (point, value) in enumerate(zip(points, line.values, strict=True)):
            if point is None or value is None or line.style == "limit":
                continue
            if narrow:  # no pointer can rest on a point
                parts.append(
                    Markup('<circle class="dot {style}" cx="{x}" cy="{y}" r="2"/>').format(
                        style=line.style, x=_px(point[0]), y=_px(point[1])
                    )
                )
                continue
            words = told[at] if told else f"{100 * value:.1f} %" if per_cent else _short(value)
            radius = 3 if at == len(points) - 1 else 2
            parts.append(
                Markup(
                    '<g class="point {style}"><title>{name}, {place}: {words}</title>'
                    '<circle class="reach" cx="{x}" cy="{y}" r="9"/>'
                    '<circle class="dot" cx="{x}" cy="{y}" r="{radius}"/></g>'
                ).format(
                    style=line.style,
                    name=line.name,
                    place=places[at],
                    words=words,
                    x=_px(point[0]),
                    y=_px(point[1]),
                    radius=radius,
                )
            )
        if final := next((point for point in reversed(points) if point), None):
            ends.append((final[1], line))
    if narrow:
        for line, (x, y) in zip(series if several else (), legend, strict=True):
            parts.append(
                Markup(
                    '<path class="line {style}" d="M{x} {y}h16"/>'
                    '<text class="name {style}" x="{t}" y="{y}" dy="4">{name}</text>'
                ).format(style=line.style, x=_px(x), y=_px(y), t=_px(x + 20), name=line.name)
            )
        return _drawn(parts)
    for y, line in _apart(ends, least=14.0, top=top + 4, bottom=top + tall + 4):
        parts.append(
            Markup('<text class="name {style}" x="{x}" y="{y}" dy="4">{name}</text>').format(
                style=line.style, x=_px(left + wide + 8), y=_px(y), name=_cut(line.name, 18)
            )
        )
    return _drawn(parts)


def _legend(names: Sequence[str], width: float) -> list[tuple[float, float]]:
    """Return where the mark of each name begins: side by side, and below where there is no room."""
    found: list[tuple[float, float]] = []
    x, y = 8.0, 10.0
    for name in names:
        wide = 20 + LETTER * len(name)
        if x > 8.0 and x + wide > width - 8:
            x, y = 8.0, y + 18
        found.append((x, y))
        x += wide + 14
    return found


def intervals(
    rows: Sequence[Interval],
    label: str,
    *,
    width: int = 1000,
) -> Markup:
    """Draw changes with their intervals on one scale, a row each.

    rows: what is compared, estimate, low, high, the limit (None: there is none), and whether the
    rule is met; all as shares.
    """
    if not any(math.isfinite(value) for row in rows for value in row[1:5] if value is not None):
        return Markup("")
    return _intervals(rows, label, width, narrow=False) + _intervals(
        rows, label, NARROW, narrow=True
    )


def _intervals(rows: Sequence[Interval], label: str, width: int, *, narrow: bool) -> Markup:
    known = [
        value for row in rows for value in row[1:5] if value is not None and math.isfinite(value)
    ]
    low, high = min(0.0, *known), max(0.0, *known)
    pad = 0.06 * (high - low or 1)
    low, high = low - pad, high + pad
    left, right, row_height, top = 250.0, 20.0, 30.0, 8.0
    if narrow:  # what is compared stands above its interval
        left, right, row_height = 8.0, 8.0, 48.0
    wide = width - left - right
    height = top + row_height * len(rows) + 24

    def across(value: float) -> float:
        return left + wide * (min(max(value, low), high) - low) / (high - low)

    zero = _px(across(0.0))
    parts = [
        Markup(
            '<svg class="chart intervals {fits}" viewBox="0 0 {w} {h}" role="img" '
            'aria-label="{label}">'
            "<title>{label}</title>"
        ).format(fits=_fits(narrow), w=width, h=_px(height), label=label)
    ]
    at_zero = Markup('<line class="zero" x1="{x}" x2="{x}" y1="{a}" y2="{b}"/>')
    if not narrow:
        parts.append(at_zero.format(x=zero, a=top, b=_px(height - 22)))
    for at, (what, estimate, lowest, highest, limit, met) in enumerate(rows):
        y = top + row_height * (at + (0.7 if narrow else 0.5))
        style = "" if met else " bad"
        if narrow:  # beside the intervals alone, for the line would go through the words above them
            parts.append(at_zero.format(x=zero, a=_px(y - 14), b=_px(y + 14)))
        words = f"{what}: {estimate:+.1%}, from {lowest:+.1%} to {highest:+.1%}"
        if limit is not None:
            words += f"; rejected below {limit:+.1%}"
            parts.append(
                Markup('<line class="limit" x1="{x}" x2="{x}" y1="{a}" y2="{b}"/>').format(
                    x=_px(across(limit)), a=_px(y - 11), b=_px(y + 11)
                )
            )
        parts.append(
            Markup(
                '<g class="interval{style}"><title>{words}</title>'
                '<rect class="reach" x="{left}" y="{ry}" width="{wide}" height="24"/>'
                '<text class="what" x="{tx}" y="{ty}" dy="4" text-anchor="{anchor}">{what}</text>'
                '<line x1="{a}" x2="{b}" y1="{y}" y2="{y}"/><circle cx="{c}" cy="{y}" r="4.5"/></g>'
            ).format(
                style=style,
                words=words,
                left=left,
                ry=_px(y - 12),
                wide=_px(wide),
                tx=left if narrow else left - 14,
                ty=_px(y - 22 if narrow else y),
                anchor="start" if narrow else "end",
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
        written, x = f"{100 * tick:+g} %" if tick else "0", across(tick)
        half = LETTER * len(written) / 2  # at an edge it begins or ends there, so that none is cut
        anchor = "start" if x < half else "end" if x > width - half else "middle"
        parts.append(
            Markup('<text class="tick" x="{x}" y="{y}" text-anchor="{anchor}">{t}</text>').format(
                x=_px(x), y=_px(height - 6), anchor=anchor, t=written
            )
        )
    return _drawn(parts)


def dots(
    points: Iterable[Dot],
    label: str,
    *,
    part: Part = WHOLE,
    quarters: Mapping[str, str] | None = None,
    named: int = 24,
    width: int = 420,
    height: int = 440,
) -> Markup:
    """Draw the map of intents: a circle each, its area the share of users, a link to the intent.

    A place is the same spot as long as no intent is born outside. The largest `named` intents have
    their names beside them, where a name covers no circle and no other name. It is drawn for a
    place of about its width: its text is as large as that of the page.

    part: of the map, which is drawn as large as the whole. quarters: the addresses of its quarters,
    by their names; a click beside the circles leads there.
    """
    everywhere = sorted(points, key=lambda one: -one.size)
    drawn = [one for one in everywhere if part.has((one.x, one.y))]
    if not drawn:
        return Markup("")
    largest = everywhere[0].size or 1
    most = min(34.0, max(14.0, 140 / math.sqrt(len(drawn))))  # radius of the largest
    least = min(6.0, max(3.0, 60 / math.sqrt(len(drawn))))
    edge_x, edge_y = most + 22, most + 18

    def spot(one: Dot) -> tuple[float, float, float]:
        x, y = part.within((one.x, one.y))
        return (
            edge_x + (width - 2 * edge_x) * x,
            edge_y + (height - 2 * edge_y) * y,
            max(least, most * math.sqrt(one.size / largest)),
        )

    spots = [spot(one) for one in drawn]
    circles = [(x - r, y - r, x + r, y + r) for x, y, r in spots]
    parts = [
        Markup(
            '<svg class="chart map" viewBox="0 0 {w} {h}" role="group" aria-label="{label}">'
        ).format(w=width, h=height, label=label)
    ]
    parts += [
        # The same links stand below the map as text: these are for the pointer alone.
        Markup(
            '<a href="{href}" class="quarter" tabindex="-1" aria-hidden="true">'
            "<title>Zoom in: {name}</title>"
            '<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="12"/>'
            '<text x="{tx}" y="{ty}" dy="4" text-anchor="middle">+</text></a>'
        ).format(
            href=(quarters or {})[name],
            name=name,
            x=right * width / 2,
            y=low * height / 2,
            w=width / 2,
            h=height / 2,
            tx=12 + right * (width - 24),
            ty=12 + low * (height - 24),
        )
        for name, (right, low) in QUARTERS.items()
        if name in (quarters or {})
    ]
    labels: list[tuple[float, float, float, float]] = []
    names = []
    for at, one in enumerate(drawn):
        x, y, radius = spots[at]
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
        wide = BROAD * len(words)
        others = circles[:at] + circles[at + 1 :]
        for start, dy in (
            (x - wide / 2, radius + 13),
            (x - wide / 2, -radius - 5),
            (x + radius + 4, 4.0),
            (x - radius - 4 - wide, 4.0),
        ):
            beside = dy == 4.0
            left = start if beside else min(max(start, 3), width - wide - 3)
            box = (left, y + dy - 10, left + wide, y + dy + 3)
            inside = box[0] >= 2 and box[2] <= width - 2 and box[1] >= 2 and box[3] <= height - 2
            if not inside or any(_touch(box, other) for other in (*labels, *others)):
                continue
            labels.append(box)
            names.append(
                Markup(
                    '<text class="place-name" x="{x}" y="{y}" text-anchor="middle">{n}</text>'
                ).format(x=_px(left + wide / 2), y=_px(y + dy), n=words)
            )
            break
    return Markup("").join([*parts, *names, Markup("</svg>")])


def overview(places: Iterable[tuple[float, float]], part: Part, *, size: int = 84) -> Markup:
    """Draw the whole map as small as a stamp, and where on it a part is."""
    edge = 4
    inner = size - 2 * edge
    dots_of = Markup("").join(
        Markup('<circle cx="{}" cy="{}" r="1.3"/>').format(
            _px(edge + inner * x), _px(edge + inner * y)
        )
        for x, y in places
    )
    return Markup(
        '<svg class="overview" viewBox="0 0 {s} {s}" width="{s}" height="{s}" aria-hidden="true">'
        '{dots}<rect x="{x}" y="{y}" width="{w}" height="{w}" rx="2"/></svg>'
    ).format(
        s=size,
        dots=dots_of,
        x=_px(edge + inner * part.left),
        y=_px(edge + inner * part.top),
        w=_px(inner * part.span),
    )


def ribbons(
    flows: Sequence[Ribbon],
    label: str,
    *,
    hrefs: Mapping[str, str] | None = None,
    width: int = 1000,
    least: int = 220,
) -> Markup:
    """Draw who went from where (left) to where (right), as ribbons as thick as they are many.

    On a phone they are a list.
    """
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
    gap, top, node, margin = 12.0, 8.0, 10.0, 240.0
    height = max(least, 30 * rows + 20)
    scale = (height - 2 * top - gap * (rows - 1)) / total
    starts: list[dict[str, float]] = []
    parts = [
        Markup(
            '<svg class="chart flows broad" viewBox="0 0 {w} {h}" role="{role}" '
            'aria-label="{label}">'
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
                words=_move(flow),
            )
        )
    listed = Markup("").join(Markup("<li>{}</li>").format(_move(flow)) for flow in flows)
    return _drawn(parts) + Markup('<ul class="narrow" aria-label="{}">{}</ul>').format(
        label, listed
    )


def _move(flow: Ribbon) -> str:
    moves = "move" if flow.users == 1 else "moves"
    return f"{flow.left} → {flow.right}: {flow.users:,} {moves}"


def _fits(narrow: bool) -> str:
    return "narrow" if narrow else "broad"


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
