"""What a job's `image` names, who may use it, and the credentials for it."""
