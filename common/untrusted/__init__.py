"""The one door through which strangers' files come in. What passed it has plain types and takes little memory.

A module a kind: weights, attack_result (BackdoorBench's, whose pickle inert walks), arrays (.npy and .npz), images,
texts (plain, JSON, YAML), fields (of what JSON held); limits has the largest sizes, archives looks into zip files. The
names below are here for convenience; images and weights are imported by their own modules, since Pillow and PyTorch
take time to import.
"""
from common.untrusted.arrays import read_archive, read_array
from common.untrusted.fields import is_count, is_number, is_text, sound_fields
from common.untrusted.texts import read_json, read_json_lines, read_object, read_text, read_yaml

__all__ = ["is_count", "is_number", "is_text", "read_archive", "read_array", "read_json", "read_json_lines",
           "read_object", "read_text", "read_yaml", "sound_fields"]
