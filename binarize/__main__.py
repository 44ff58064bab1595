"""`python -m binarize`, for launchers that start modules."""

from binarize.cli import main

if __name__ == "__main__":
    main()
