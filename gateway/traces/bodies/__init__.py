"""Request and response as they are stored: shared parts, sealed parts, and who reads them."""
