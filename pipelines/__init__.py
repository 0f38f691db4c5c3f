"""The pipeline and its named runs."""
