"""Keys for a guest: pasted text and combinations, typed on its keyboard.

- `keyroutes`: their routes
- `paste`: pastes, one of a VM at a time
- `typist`: from strokes to QEMU, paced
- `uptake`: whether the guest has read what was typed
- `combinations`: keys by their names, pure
- `strokes`: from text to strokes, pure
- `layouts`: what the keys of a layout type, of tables in `data`
"""
