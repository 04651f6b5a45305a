"""What `gateway.traces.imports` is made of: lines of a file, and a mapping for each tool's log."""
