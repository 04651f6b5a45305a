"""How often a judge is right, measured against labels from people."""
