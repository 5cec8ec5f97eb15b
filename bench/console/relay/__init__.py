"""What relays cost: `inside` measures ours and `others` in turns, by a bare `viewer`."""
