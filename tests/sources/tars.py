"""Helper that writes tar files."""

import io
import tarfile


def tar_of(*members):
    """A tar file of (name, content, type, link) members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content, *rest in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if rest:
                info.type, info.linkname = rest
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()
