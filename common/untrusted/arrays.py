"""Strangers' NumPy arrays: a .npy file has one, a .npz file several."""
import os
import zipfile

import numpy as np

from common.errors import UserError
from common.untrusted.archives import check_archive
from common.untrusted.limits import MAX_ARRAY, check_size


def read_array(path: str | os.PathLike) -> np.ndarray:
    """The array of plain values in a .npy file. Raises UserError, naming the file, for any other or a large one."""
    try:
        check_size(path, MAX_ARRAY)
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except Exception as error:  # strange bytes make NumPy's reader raise almost anything
        raise UserError(f"{path}: not a NumPy array of plain values ({error})") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: expected one NumPy array, got an archive of them")
    return array


def read_archive(path: str | os.PathLike, most: int = MAX_ARRAY) -> dict[str, np.ndarray]:
    """{name: array} of a .npz file of plain values. Raises UserError, naming the file, for any other.

    Of at most `most` bytes, and as savez writes it: an archive that unpacks to more than it holds is refused.
    """
    try:
        check_size(path, most)
        check_archive(path)
        if not zipfile.is_zipfile(path):
            raise ValueError("no zip file")  # which NumPy would read as whatever else it is
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except UserError:
        raise
    except Exception as error:  # strange bytes make the zip reader raise almost anything
        raise UserError(f"{path}: not an archive of NumPy arrays ({error})") from None
