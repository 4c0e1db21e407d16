"""Answers with everything in them, for tests of looks and for the pictures in the docs."""

from __future__ import annotations

import math
import random

RAINBOW = r'''A rainbow is light that each raindrop **sorts by wavelength**. Two things happen in a drop:

1. Light *bends* on the way in and on the way out, and blue bends more than red.
2. It is mirrored once at the back of the drop.

Seen from where you stand, the angle between the light going in and coming out is

$$\theta = 4\arcsin\!\left(\frac{\sin i}{n}\right) - 2i$$

| colour | refractive index $n$ | angle |
|---|---:|---:|
| red | 1.331 | 42.4° |
| green | 1.335 | 41.8° |
| violet | 1.343 | 40.7° |

```python
import math

def angle(n: float, incidence: float) -> float:
    """Degrees between the light that enters a drop and the light that leaves it."""
    refracted = math.asin(math.sin(incidence) / n)
    return math.degrees(4 * refracted - 2 * incidence)
```

> Red leaves at the larger angle, so the outer rim of the bow is red: see `angle(1.331, 1.04)`.

More is in [the optics of drops](https://example.org).
'''


def rainbow(_text: str, thinking_seconds: float = 0.02):
    """A script of the fake server."""
    yield {"reasoning": "They ask about *order*: refraction depends on wavelength.\n\nThen the angle."}
    yield thinking_seconds
    for start in range(0, len(RAINBOW), 24):
        yield RAINBOW[start : start + 24]


def small_lens(streams: int = 4) -> dict:
    """A lens in the server's format, of made-up numbers; tests of the numbers ask the real engine (test_lens.py)."""
    draw = random.Random(3)
    words = "A| rainbow| is| light| that| each| rain|drop| sorts| by| wavelength|.|\n|Red| is| outside|.".split("|")  # noqa: SIM905
    tokens = []
    for word in words:
        sure = draw.choice([0.2, 0.5, 1.2, 2.5, 4.0])
        guesses = []
        for stream in range(streams):
            agrees = stream == streams - 1 or draw.random() < 0.25 + 0.22 * stream
            first = word if agrees else draw.choice([" the", " of", " sky"])
            texts = [first, " and", ",", " a", " colour"]
            top = [{"token_id": i, "token": text, "probability": 0.5 / (i + 1)} for i, text in enumerate(texts)]
            bits = max(0.03, sure + (streams - 1 - stream) * draw.uniform(0.2, 1.8))
            guesses.append({"entropy_bits": bits, "agrees": agrees, "top": top})
        tokens.append({"token_id": 5, "token": word, "streams": guesses})
    layers = ["embeddings", *(f"layer {index}" for index in range(1, 8)), "layer 8, normed"]
    cosine = [
        [0.1 + 0.2 * s + 0.05 * depth * math.sin(depth / 3) if s < streams - 1 else 1.0 for s in range(streams)]
        for depth in range(len(layers))
    ]
    return {"streams": streams, "layers": layers, "tokens": tokens, "cosine": cosine}
