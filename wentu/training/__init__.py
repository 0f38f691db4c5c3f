"""The training loop and its parts: data, loss, optimizer, exact state."""
