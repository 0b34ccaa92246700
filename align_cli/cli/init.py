import typer
def command() -> None:
    pass
