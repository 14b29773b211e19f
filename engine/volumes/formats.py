"""Which formats of volumes there are."""

from engine.volumes.nrrdFiles import openVolume

__all__ = ["openVolume"]
