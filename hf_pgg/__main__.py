"""`python -m hf_pgg` is `hf-pgg`."""

from hf_pgg.cli.main import main

if __name__ == "__main__":
    main()
