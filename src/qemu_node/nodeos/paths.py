"""Every path of a node that was installed with the Elemental toolkit.

Owns the names, under a root that tests choose. Does not own what the files hold, nor the VMs'
directories (`config.node.Paths`). Elemental's own paths are from its v2.3.2
(pkg/constants/constants.go).
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NodePaths:
    """The paths of a node's system below `root`."""

    root: Path = Path("/")

    # The image: read only.

    @property
    def os_release(self) -> Path:
        """Which image this is; see `release`."""
        return self.root / "etc/os-release"

    @property
    def elemental(self) -> Path:
        """The Elemental CLI. Its units and the initrd call it by this path."""
        return self.root / "usr/bin/elemental"

    @property
    def snapshotter_config(self) -> Path:
        """Elemental's settings of snapshots, such as their size."""
        return self.root / "etc/elemental/config.d/snapshotter.yaml"

    @property
    def release_key(self) -> Path:
        """The public key (minisign) of whoever published the image."""
        return self.root / "usr/share/qemu-node/os/release.pub"

    # /oem (label COS_OEM, mode 0700): settings and state that no image replaces.

    @property
    def oem(self) -> Path:
        """The partition of what outlives images, also a factory reset of the state."""
        return self.root / "oem"

    @property
    def grubenv(self) -> Path:
        """GRUB's variables: `boot_assessment_check`, `last_boot_attempt`, `next_entry` and more."""
        return self.oem / "grubenv"

    @property
    def own(self) -> Path:
        """The directory of our own state and settings on /oem."""
        return self.oem / "qemu-node"

    @property
    def refused(self) -> Path:
        """The images that did not pass the health check."""
        return self.own / "refused"

    @property
    def history(self) -> Path:
        """What happened to the node's system: an event a line."""
        return self.own / "history.jsonl"

    @property
    def seed(self) -> Path:
        """The seed by which the node was installed."""
        return self.own / "seed.toml"

    @property
    def staged_config(self) -> Path:
        """Files for /data/config, which wait here until that is mounted."""
        return self.own / "config"

    @property
    def data_disk(self) -> Path:
        """The link in /dev/disk of the disk that is /data."""
        return self.own / "data-disk"

    @property
    def reset(self) -> Path:
        """The order for a factory reset, which the recovery system carries out."""
        return self.own / "reset"

    @property
    def uplink(self) -> Path:
        """The node's network cards and VLANs; there also if /data is not."""
        return self.own / "uplink.toml"

    @property
    def drained(self) -> Path:
        """The marker that we have drained this node, so that we may end that."""
        return self.own / "drained"

    # Snapshots: the images of the system that are kept.

    @property
    def state(self) -> Path:
        """The mounted state partition (label COS_STATE)."""
        return self.root / "run/initramfs/elemental-state"

    @property
    def snapshots(self) -> Path:
        """One directory for each snapshot, named by its number."""
        return self.state / ".snapshots"

    @property
    def active(self) -> Path:
        """The link to the image that GRUB boots."""
        return self.snapshots / "active"

    @property
    def state_yaml(self) -> Path:
        """What Elemental knows about its snapshots."""
        return self.state / "state.yaml"

    @property
    def efi(self) -> Path:
        """The mounted ESP; read only but during an upgrade."""
        return self.root / "run/elemental/efi"

    @property
    def grub_oem_env(self) -> Path:
        """GRUB's variables that Elemental writes: `passive_snaps`, `default_fallback` and more."""
        return self.efi / "grub_oem_env"

    @property
    def recovery(self) -> Path:
        """Where Elemental mounts the recovery partition during an upgrade."""
        return self.root / "run/elemental/recovery"

    @property
    def working_tree(self) -> Path:
        """Where Elemental mounts the tree of an image that it installs."""
        return self.root / "run/elemental/workingtree"

    def mode(self, name: str) -> Path:
        """Return the file that exists if the node was booted as `name`, such as passive."""
        return self.root / f"run/elemental/{name}_mode"

    # What the kernel says.

    @property
    def web_certificate(self) -> Path:
        """The certificate that the web console shows to browsers."""
        return self.root / "run/qemu-node/web/certificate.pem"

    @property
    def mountinfo(self) -> Path:
        """The mounts of this process (proc(5))."""
        return self.root / "proc/self/mountinfo"

    def backing_file(self, device: str) -> Path:
        """Return the file that names the image behind a loop device, given as `major:minor`."""
        return self.root / f"sys/dev/block/{device}/loop/backing_file"

    @property
    def net(self) -> Path:
        """The network devices (sysfs)."""
        return self.root / "sys/class/net"

    @property
    def data_device(self) -> Path:
        """The link of udev to this node's file system with label DATA (62-qemu-node-data.rules)."""
        return self.root / "dev/qemu-node/data"

    @property
    def data_label(self) -> Path:
        """The link of udev to any file system with label DATA, also another node's."""
        return self.root / "dev/disk/by-label/DATA"

    @property
    def upgrade_log(self) -> Path:
        """What Elemental said in the last upgrade; /var/log outlives images."""
        return self.root / "var/log/qemu-node/upgrade.log"

    @property
    def boot_id(self) -> Path:
        """The identity of this boot."""
        return self.root / "proc/sys/kernel/random/boot_id"

    # What belongs to this boot only.

    @property
    def run(self) -> Path:
        """The directory of our state of this boot."""
        return self.root / "run/qemu-node-os"

    @property
    def issue(self) -> Path:
        """What agetty prints above the login prompt; /etc/issue of the image is a link to it."""
        return self.root / "run/issue"

    # /data (label DATA): the operator's partition; a node is whole without it.

    @property
    def data(self) -> Path:
        """The data partition's mount point, which the image has in any case."""
        return self.root / "data"

    @property
    def config(self) -> Path:
        """The operator's configuration: node.toml, *.hcl, `tls/`, `ssh/`."""
        return self.data / "config"

    @property
    def nomad_data(self) -> Path:
        """Nomad's data_dir."""
        return self.data / "nomad"

    @property
    def nomad_node_id(self) -> Path:
        """The file with the id of this node in Nomad."""
        return self.nomad_data / "client/client-id"

    @property
    def nomad_node_secret(self) -> Path:
        """The file with the node's own secret, a token for what concerns this node."""
        return self.nomad_data / "client/secret-id"
