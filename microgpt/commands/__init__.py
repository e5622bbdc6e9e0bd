"""The commands of `microgpt`, a module each."""
