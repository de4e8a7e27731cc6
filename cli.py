"""The command line from a checkout: ``python cli.py --help``. The installed command is ``supportset``."""

from supportset.commands.main import main

if __name__ == "__main__":
    main()
