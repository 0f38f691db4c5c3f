"""What nothing needs any more leaves the store, and so does what a deleted picture left there.

A refresh only marks a deleted picture's row as dead; here it goes: segments that hold dead rows
are written anew without them (compact.py), a new release of the same model names those, and what no
kept release points at is removed (sweep.py). Nothing is embedded again. What was served or written
less than ``grace`` seconds ago stays: a service may serve it, a run may be about to publish it.
"""

from __future__ import annotations

from wentu.gc.sweep import Plan, Removed, collect

__all__ = ["Plan", "Removed", "collect"]
