"""The themes of generated items: what their titles and categories are made of.

Each planted intent has a theme, a word of its own. Titles are of the theme's word, of words that go
with it and of words that say nothing, and some are wrong, as in a real catalogue. So a name that is
made of titles can be held against the theme that it should have.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

# Department, theme, and words that go with the theme.
THEMES = (
    ("Outdoor", "camping", ("tent", "lantern", "hammock", "stove")),
    ("Kitchen", "espresso", ("grinder", "portafilter", "crema", "tamper")),
    ("Science", "astronomy", ("telescope", "eyepiece", "nebula", "tripod")),
    ("Outdoor", "cycling", ("saddle", "derailleur", "helmet", "pedals")),
    ("Kitchen", "baking", ("flour", "rolling pin", "sourdough", "whisk")),
    ("Music", "guitar", ("strings", "plectrum", "capo", "amplifier")),
    ("Garden", "roses", ("pruner", "trellis", "compost", "gloves")),
    ("Home", "knitting", ("yarn", "needles", "wool", "pattern")),
    ("Outdoor", "climbing", ("carabiner", "chalk", "harness", "rope")),
    ("Science", "chemistry", ("beaker", "pipette", "burner", "flask")),
    ("Music", "piano", ("metronome", "sheet music", "bench", "pedal")),
    ("Home", "painting", ("canvas", "brush", "easel", "acrylics")),
    ("Garden", "beekeeping", ("hive", "smoker", "honey", "veil")),
    ("Sports", "tennis", ("racket", "overgrip", "net", "balls")),
    ("Sports", "swimming", ("goggles", "fins", "cap", "kickboard")),
    ("Kitchen", "sushi", ("nori", "bamboo mat", "rice", "wasabi")),
    ("Home", "aquarium", ("filter", "gravel", "heater", "algae")),
    ("Sports", "yoga", ("mat", "block", "strap", "bolster")),
    ("Science", "robotics", ("servo", "sensor", "gearbox", "controller")),
    ("Outdoor", "sailing", ("winch", "compass", "life jacket", "cleat")),
    ("Music", "drums", ("cymbal", "sticks", "snare", "hi-hat")),
    ("Garden", "bonsai", ("shears", "moss", "wire", "pot")),
    ("Sports", "archery", ("bow", "quiver", "target", "arrows")),
    ("Home", "pottery", ("clay", "glaze", "wheel", "kiln")),
)
NEUTRAL = (
    *("classic", "compact", "deluxe", "starter", "portable", "premium", "everyday", "vintage"),
    *("set", "kit", "bundle", "edition", "for two", "XL", "mini", "pro"),
)
STAPLES = ("Gift card", "Shopping bag", "Batteries", "Cable", "Sticker", "Umbrella", "Notebook")

NAMED = 0.8  # share of an intent's items whose title has the theme's word
MISTAKEN = 0.05  # share of items whose title or category is of another theme
UNTITLED, UNSORTED, UNLISTED = 0.01, 0.05, 0.01  # share of items without title, category, row


@dataclass(frozen=True)
class Theme:
    """The theme of an intent."""

    department: str
    word: str
    related: tuple[str, ...]


def themes_of(intents: int) -> list[Theme]:
    """Return a theme for each intent; beyond those of the list, the words have numbers."""
    found = []
    for number in range(intents):
        department, word, related = THEMES[number % len(THEMES)]
        again = number // len(THEMES) + 1
        suffix = "" if again == 1 else str(again)
        found.append(Theme(department, word + suffix, tuple(one + suffix for one in related)))
    return found


def draw_catalogue(
    item_ids: pl.Series,
    owner: npt.NDArray[np.int64],
    intents: int,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Draw the catalogue: item_id, title, categories (a list) and price.

    owner: [items] the intent that each item belongs to; -1 for a staple.
    """
    themes = themes_of(intents)
    rows = []
    for item_id, intent in zip(item_ids, owner.tolist(), strict=True):
        chance = rng.random(6)
        if chance[0] < UNLISTED:
            continue
        if chance[1] < MISTAKEN and intent >= 0:
            intent = int(rng.integers(0, intents))
        title, department = _drawn(themes, intent, chance[2], rng)
        rows.append(
            {
                "item_id": item_id,
                "title": None if chance[3] < UNTITLED else title,
                "categories": [] if chance[4] < UNSORTED else [department],
                "price": round(5 + 95 * float(chance[5]), 2),
            }
        )
    schema = pl.Schema(
        {
            "item_id": pl.String(),
            "title": pl.String(),
            "categories": pl.List(pl.String()),
            "price": pl.Float64(),
        }
    )
    return pl.DataFrame(rows, schema=schema)


def _drawn(
    themes: list[Theme], intent: int, chance: float, rng: np.random.Generator
) -> tuple[str, str]:
    """Draw the title and the department of an item."""
    neutral = [NEUTRAL[place] for place in rng.choice(len(NEUTRAL), 2, replace=False)]
    if intent < 0:
        return f"{STAPLES[rng.integers(len(STAPLES))]} {neutral[0]}", "Everyday"
    theme = themes[intent]
    related = theme.related[rng.integers(len(theme.related))]
    words = [neutral[0], related, neutral[1]]
    if chance < NAMED:
        words.insert(1, theme.word)
    title = " ".join(words)
    return title[0].upper() + title[1:], theme.department
