"""`python -m binarize`: the command line."""

from binarize.cli import main

if __name__ == "__main__":
    main()
