"""`python -m groundup`, which is also how torchrun starts it."""

from groundup.cli import main

if __name__ == "__main__":
    main()
