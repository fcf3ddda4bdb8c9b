"""What coremltools alone reads in a saved package: nothing is executed, which Core ML does on macOS only."""

from collections import Counter

import coremltools as ct
import numpy as np
from coremltools.converters.mil.frontend.milproto.load import load


def run(entry, inputs):
    """By kind and name: of an ``input`` the least and greatest size of each axis, of an ``operation`` how many there are, of a
    ``weight`` what it is once coremltools has decompressed it."""
    model = ct.models.MLModel(entry, skip_model_load=True)
    spec = model.get_spec()
    found = {}
    for port in spec.description.input:
        ranges = port.type.multiArrayType.shapeRange.sizeRanges
        found[f"input {port.name}"] = np.array([(axis.lowerBound, axis.upperBound) for axis in ranges])
    assert [port.name for port in spec.description.output] == ["logits"]
    program = load(spec, spec.specificationVersion, model.weights_dir)
    operations = program.functions["main"].operations
    kinds = Counter(op.op_type for op in operations)
    found |= {f"operation {kind}": np.array(count) for kind, count in kinds.items()}
    for op in operations:
        result = op.outputs[0]
        if any(reader.op_type.startswith("constexpr_") for reader in result.child_ops):
            continue  # a part of a compressed weight
        if op.op_type.startswith("constexpr_"):
            value = op.materialized_val_inference()
        else:
            value = result.val if op.op_type == "const" else None
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size > 1:
            found[f"weight {result.name}"] = value
    return found
