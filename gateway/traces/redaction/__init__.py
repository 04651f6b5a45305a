"""Finding secrets and personal data in the texts of a trace, before anything is written."""
