"""Training: datasets, fitting, evaluation. Never imported by the server."""
