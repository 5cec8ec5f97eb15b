"""The goals of the node's network: `goals` judges what `inside` finds, here or in a VM (`vm`)."""
