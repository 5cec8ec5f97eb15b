"""What a job's `image` names, who may use it, and as whom it is asked for."""
