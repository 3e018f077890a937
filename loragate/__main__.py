"""`python -m loragate` is `loragate`."""

from loragate import main

if __name__ == "__main__":
    main()
