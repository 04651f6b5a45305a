"""Files on disk between the recorder and the store."""
