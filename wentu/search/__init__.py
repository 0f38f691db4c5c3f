"""Searching a release. Nothing in this room imports torch or kfp."""
