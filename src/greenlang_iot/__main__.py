"""`python -m greenlang_iot`: the command line."""

if __name__ == "__main__":
    from greenlang_iot.cli.main import main

    main()
