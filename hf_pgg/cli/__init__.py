"""The command line `hf-pgg`: `main`, and one file for each command."""
