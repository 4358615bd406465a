"""The runtime's side of the bench, in its own venv."""
