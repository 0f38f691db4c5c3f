"""What a score means: does a picture fit a text, or is it only the nearest that there is?

    scores.py      the two statistics, and judging a query by them: NumPy alone, used when serving
    release.py     stores it with a release, and reports on it
    measure.py     finds the limits for a model and a gallery, when a release is made
    background.py  texts that no picture shows

A cosine says little by itself: what is high depends on the model, on how many pictures there are
and on the text. Two numbers say more (measured on the demo: docs/experiments.md):

    fit        how well the picture likes the text, less how well it likes the three best of the
               captions that others have: a picture of a dog likes some better than "a cat"
    familiar   how well the text can be put together from the captions around it: of what the model
               never heard of, or never so, it cannot say that it is not there

Both are measured on captions that the model was not trained on, scaled by how they spread there,
and added. The limit is where 1.5 % of these captions would be refused. Texts that are shorter than
captions score lower altogether; their limits come from pieces of these captions. A model that
began from random weights knows no character that its captions do not have: texts that consist of
such ones are answered with nothing.
"""

from wentu.calibration.scores import (
    BESIDE,
    LOOKED_AT,
    THRESHOLD,
    Calibration,
    Judged,
    Known,
    Limit,
    Scale,
    evidence,
    from_plain,
    unexplained,
)

__all__ = [
    "BESIDE",
    "LOOKED_AT",
    "THRESHOLD",
    "Calibration",
    "Judged",
    "Known",
    "Limit",
    "Scale",
    "evidence",
    "from_plain",
    "unexplained",
]
