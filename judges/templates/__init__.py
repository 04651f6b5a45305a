"""Judges to start from. `tracetune init` copies one beside the configuration; a person edits it there."""
