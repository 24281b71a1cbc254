"""The command line `hf-pgg`: `main`, and one file for each command.

A command's module adds its parser and imports the library only when it runs, so that `--help` is instant.
"""
