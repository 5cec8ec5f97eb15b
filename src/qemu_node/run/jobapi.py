"""The earlier name of `run.jobfile.job`, for scripts outside of this repository."""

from qemu_node.run.jobfile.job import job_from_api

__all__ = ["job_from_api"]
