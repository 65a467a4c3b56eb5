"""The Python API, by topic. Users import its names from :mod:`dimmpim` itself."""
