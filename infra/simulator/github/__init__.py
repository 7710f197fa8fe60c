"""GitHub on loopback: its REST API over a bare repository, and its Actions, which run the real workflow files."""
