"""``python -m supportset``: the command line, as `supportset` and ``python cli.py`` start it."""

from supportset.commands.main import main

if __name__ == "__main__":
    main()
