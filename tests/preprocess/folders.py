"""What a preparation leaves in its folder, and what it reports."""

import hashlib

from groundup.utils.progress import ProgressReporter


def digests(folder):
    """Checksum of every file in a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


class RecordingProgress(ProgressReporter):
    """Keeps messages and phases."""

    def __init__(self):
        super().__init__()
        self.messages, self.phases = [], []

    def message(self, line):
        self.messages.append(line)

    def phase(self, name, total, done=0):
        self.phases.append((name, total))
