"""A storage in memory: that the label store needs nothing but the operations of a storage."""

from collections.abc import Iterator


class DictStorage:
    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        return self.contents.setdefault(name, content) is content

    def get(self, name: str) -> bytes | None:
        return self.contents.get(name)

    def list(self, prefix: str) -> Iterator[str]:
        return iter(sorted(name for name in self.contents if name.startswith(prefix)))

    def replace(self, name: str, content: bytes) -> None:
        self.contents[name] = content

    def remove(self, name: str) -> None:
        self.contents.pop(name, None)
