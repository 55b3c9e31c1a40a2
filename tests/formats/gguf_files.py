"""What several tests of GGUF files share."""

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter


def write_gguf(path, values: dict, tensors: dict) -> None:
    """A file with this metadata, which may be any, and these tensors."""
    values = dict(values)
    writer = GGUFWriter(path, str(values.pop("general.architecture", "llama")))
    for key, value in values.items():
        kind = GGUFValueType.get_type(value)
        if kind == GGUFValueType.INT32 and value not in range(-(2**31), 2**31):
            kind = GGUFValueType.UINT64
        writer.add_key_value(key, value, kind)
    for name, x in tensors.items():
        if isinstance(x, np.ndarray):
            writer.add_tensor(name, np.ascontiguousarray(x))
        else:
            writer.add_tensor(name, x.blocks, raw_dtype=GGMLQuantizationType[x.type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
