from pathlib import Path

import h5py
import pytest

from analysis.read import read
from vigmpi.errors import InputError
from vigmpi.record.columns import FORMAT


def write(path: Path, **attributes: str) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    ("attributes", "found"), [({"format": "vigmpi record 0"}, "vigmpi record 0"), ({}, "none")]
)
def test_a_record_in_another_format_is_refused(
    tmp_path: Path, attributes: dict[str, str], found: str
) -> None:
    path = write(tmp_path / "old.h5", **attributes)
    with pytest.raises(InputError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"unsupported record format: {path} has format '{found}'")
    assert f"expected '{FORMAT}'" in message
    assert message.endswith(".")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("no record")
    for path, reason in ((text, "not an HDF5 file"), (tmp_path / "none.h5", "No such file")):
        with pytest.raises(InputError, match=f"^record cannot be read: {path} .{reason}.*\\.$"):
            read(path)
