"""A disk that loses power: what was written but not synced may be gone, cut or zeroed."""

import os
import random
from pathlib import Path


class Disk:
    """Records every operation on the files below a folder, and makes what a crash may leave of them.

    The model: a file's bytes are certain once it was synced, a name once its folder was; before that each may be
    there or not, and the bytes cut, zeroed or whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operations: list[tuple] = []  # (what, ...) with files by their inode
        self.data: dict[int, bytes] = {}

    def watch(self, patch) -> None:
        """Listens to the functions of ``os`` that write."""
        write, fsync, link, unlink = os.write, os.fsync, os.link, os.unlink

        def noted(what, *facts):
            self.operations.append((what, *facts))

        def on_write(descriptor, data):
            count = write(descriptor, data)
            noted("write", os.fstat(descriptor).st_ino, bytes(data[:count]))
            return count

        def on_fsync(descriptor):
            fsync(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path.is_dir():
                noted("sync folder", path)
            else:
                noted("sync file", os.fstat(descriptor).st_ino)

        def on_link(source, target):
            link(source, target)
            noted("link", Path(target), os.stat(target).st_ino)

        def on_unlink(path, **options):
            unlink(path, **options)
            noted("unlink", Path(path))

        def on_rename(source, target, **options):
            raise AssertionError("a run without damage renames nothing")

        for name, function in (("write", on_write), ("fsync", on_fsync), ("link", on_link), ("unlink", on_unlink)):
            patch.setattr(os, name, function)
        patch.setattr(os, "rename", on_rename)

    def _state(self, moment: int):
        """(bytes by file, synced bytes by file, names by path, synced paths) before an operation."""
        data: dict[int, bytes] = {}
        synced: dict[int, bytes] = {}
        names: dict[Path, int] = {}
        certain: set[Path] = set()
        for what, *facts in self.operations[:moment]:
            if what == "write":
                data[facts[0]] = data.get(facts[0], b"") + facts[1]
            elif what == "sync file":
                synced[facts[0]] = data.get(facts[0], b"")
            elif what == "link":
                names[facts[0]] = facts[1]
            elif what == "sync folder":
                certain |= {path for path in names if path.parent == facts[0]}
            elif what == "unlink":
                data = {file: value for file, value in data.items() if file in names.values()}
        return data, synced, names, certain

    def promised(self, moment: int) -> list[str]:
        """Names that must survive: synced file, synced folder."""
        _, synced, names, certain = self._state(moment)
        return [str(path.relative_to(self.folder)) for path in certain if names[path] in synced]

    def after_power_loss(self, moment: int, chance: random.Random, into: Path) -> None:
        """One of the states that the disk may be in, as a folder."""
        data, synced, names, certain = self._state(moment)
        for folder in ("shards", "commits"):
            (into / folder).mkdir(parents=True)
        for path, file in names.items():
            if path not in certain and chance.random() < 0.5:
                continue
            whole = data.get(file, b"")
            torn = [whole[: len(whole) // 2], bytes(len(whole)), b"", whole]
            target = into / path.relative_to(self.folder)
            target.write_bytes(synced[file] if file in synced else chance.choice(torn))
