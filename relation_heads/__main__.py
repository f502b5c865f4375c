"""`python -m relation_heads`: see `commands`."""

from relation_heads.commands import main

if __name__ == "__main__":
    main()
