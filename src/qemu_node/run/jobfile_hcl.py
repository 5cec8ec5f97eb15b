"""The earlier name of `run.jobfile.builtin`, for scripts outside of this repository."""

from qemu_node.run.jobfile.builtin import parse_hcl_job

__all__ = ["parse_hcl_job"]
