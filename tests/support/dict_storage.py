"""A storage in memory: that the label store needs nothing but the operations of a storage."""

import threading
from collections.abc import Iterator


class DictStorage:
    n_at_once = 1

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.renewal = threading.Lock()

    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        return self.contents.setdefault(name, content) is content

    def get(self, name: str) -> bytes | None:
        return self.contents.get(name)

    def list(self, prefix: str) -> Iterator[str]:
        return iter(sorted(name for name in self.contents if name.startswith(prefix)))

    def renew(self, name: str, former: bytes, content: bytes) -> bool:
        with self.renewal:
            if self.contents.get(name) != former:
                return False
            self.contents[name] = content
            return True

    def remove(self, name: str) -> None:
        with self.renewal:
            self.contents.pop(name, None)
