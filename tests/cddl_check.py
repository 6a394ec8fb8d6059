def validate(direction: str, data: bytes) -> None:
    pass
