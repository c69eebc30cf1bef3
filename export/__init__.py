"""From a base model and what was trained on it to a bundle. Never imported by `server`."""
