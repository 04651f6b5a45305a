"""Starts, watches, restarts and stops the processes of `tracetune up` and `tracetune gateway`."""
