"""Keys per subject, and the sealing of bodies with them."""
