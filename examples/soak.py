"""The function of `scripts/soak.py`: cheap, and no two rows give the same. Needs no packages."""

from pillion import udf


@udf(input_types=["bigint"], result_type="bigint")
def mix(x):
    """Mixes the bits of a number below a billion."""
    return (x * 31) ^ 0x5EED
