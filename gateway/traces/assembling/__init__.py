"""From the bytes of an exchange to its response, usage and what was said."""
