"""What `gateway.traces.export` is made of: which traces, what becomes of each, and where it is written."""
