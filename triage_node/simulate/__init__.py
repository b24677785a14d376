"""A simulated head CT with truth, and its DICOM series: for tests, demonstration and training. No patient in it.

Bone, face, spaces and blood are procedural; the folds of the brain too, or those of the MNI152 template (`template`).
"""

from triage_node.simulate.geometry import SliceGeometry, axial_geometry
from triage_node.simulate.head import SimulatedHead, simulate_head
from triage_node.simulate.series import write_case, write_series

__all__ = ["SimulatedHead", "SliceGeometry", "axial_geometry", "simulate_head", "write_case", "write_series"]
