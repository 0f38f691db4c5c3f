"""One module per command, each with ``command()``; imported when it is called."""
