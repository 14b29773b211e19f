"""A prediction as plain data."""

import json
from typing import NamedTuple

from engine.prediction.layout import Geometry, Layout
from engine.volumes.scale import Scale


class Job(NamedTuple):
    """A prediction as plain data, the same on every machine: JSON holds it, and any process can do a part."""

    volume: str
    region: tuple[tuple[int, int], ...]
    scale: Scale  # mean and standard deviation of the z-score, and what is no grey value
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
        fields |= {"region": tuple(map(tuple, fields["region"])), "scale": Scale.of(fields["scale"])}
        return cls(**fields)
