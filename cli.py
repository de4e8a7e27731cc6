"""The command line: ``python cli.py --help``. The commands live in ``commands/``."""

from supportset.commands.main import main

if __name__ == "__main__":
    main()
