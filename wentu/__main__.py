"""``python -m wentu``: the command, for launchers that start modules, such as torchrun."""

from wentu.cli import main

if __name__ == "__main__":
    main()
