"""`python -m codecvq`, and `accelerate launch -m codecvq`."""

from codecvq.cli.app import main

if __name__ == "__main__":
    main()
