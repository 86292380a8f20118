"""The tables of the pages, made of the registry and of results/*.json."""
