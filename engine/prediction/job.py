"""A prediction as plain data."""

import json
from typing import NamedTuple

from engine.prediction.layout import Geometry, Layout


class Job(NamedTuple):
    """A prediction as plain data, the same on every machine: JSON holds it, and any process can do a part."""

    volume: str
    region: tuple[tuple[int, int], ...]
    moments: tuple[float, float]  # mean and standard deviation of the z-score
    geometry: Geometry
    layout: Layout
    modelFile: str = ""
    weightFile: str = ""
    engine: str = "openvino"
    precision: str = "float32"
    output: str = ""  # the result that has been begun

    def toJson(self) -> str:
        """Write it as text."""
        return json.dumps(self._asdict())

    @classmethod
    def fromJson(cls, text: str) -> "Job":
        """Read what `toJson` wrote."""
        fields = json.loads(text)
        size, cell, halo = fields["geometry"]
        fields |= {"geometry": Geometry(tuple(size), cell, halo), "layout": Layout(*fields["layout"])}
        fields |= {"region": tuple(map(tuple, fields["region"])), "moments": tuple(fields["moments"])}
        return cls(**fields)
