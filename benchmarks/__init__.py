"""Side-by-side measurements with cn_clip's own code, one command each."""
