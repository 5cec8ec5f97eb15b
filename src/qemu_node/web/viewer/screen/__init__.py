"""The guest's screen: small pictures, screenshots, and the screen itself.

- `screenroutes`: their routes
- `thumbnails`: small pictures of the VMs that somebody sees
- `relay`: between a viewer's socket and QEMU's VNC server
- `jpeg`: from QEMU's picture to a small one, in a thread
- `pauses`: when a VM's picture is not taken, pure
- `ppm`: QEMU's picture, parsed, pure
- `rfb`: what a viewer sends, parsed, pure
"""
