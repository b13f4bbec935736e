"""Snapshots in, catalogues out: every file of the user's is read and written here."""
