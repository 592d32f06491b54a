"""Semi-supervised human pose estimation: the library that the notebooks of this suite call."""

__version__ = "0.1.0"
