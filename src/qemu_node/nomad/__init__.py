"""The task driver plugin `vm`: go-plugin's process contract, Nomad's RPCs, the job's options."""
