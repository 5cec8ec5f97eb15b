"""A job file → a `Job`: what its VMs need.

`reader` chooses who reads the file. HCL read by Nomad and JSON are Nomad's API form, which `job`
turns into values. Without Nomad `builtin` reads HCL: `syntax` finds blocks and arguments,
`variables` and `evaluation` compute values, `template` knows strings and heredocs.
`consul_template` renders a task's templates when it is placed.
"""
