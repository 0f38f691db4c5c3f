"""Side by side with cn_clip's own code: ``make bench``, or ``python -m benchmarks``."""
