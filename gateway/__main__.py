"""`python -m gateway` is `loragate`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
