"""The tolerance between two computations of the same features, for the tests, the documents and `verify`.

The measure is the relative difference of a step's feature vector, ‖a − b‖ / ‖b‖. A relative difference of r keeps the
cosine above 1 − r²/2.
"""

from __future__ import annotations

# Of a forward in this precision against one in float32 on a CPU. Measured on small models of every family, the worst
# was 0.043 with bf16 (MobileNetV3-Small) and 0.0044 with fp16 (EfficientNet-Lite0).
FORWARD = {"fp32": 1e-4, "fp16": 0.015, "bf16": 0.1}
_SHORT_PRODUCTS = 0.015  # a GPU's convolutions in "float32" have 10 bits of mantissa (TF32), as many as fp16
_ROUNDING = {"float16": 2.0**-11, "float32": 2.0**-24}  # relative error of the stored dtype


def tolerance(precision: str, dtype: str, devices: tuple[str, ...]) -> float:
    """Return the largest relative difference that rounding explains.

    Parameters
    ----------
    precision : str
        ``fp32``, ``bf16`` or ``fp16``, of both forwards.
    dtype : str
        As stored.
    devices : tuple[str, ...]
        Of both forwards, as in the card: ``cpu``, ``cuda: ...``.
    """
    forward = FORWARD.get(precision, max(FORWARD.values()))
    if precision == "fp32" and set(devices) != {"cpu"}:
        forward = _SHORT_PRODUCTS
    return forward + _ROUNDING.get(dtype, 0.0)
