"""Which parts of QEMU's command line a job can be allowed at all: tables, read by `args`.

Made from the options and devices of QEMU 7.2 and 10.0 (`-help`, `-device help`, `-device X,help`).
On the lists is what emulates something and takes nothing of the host: no file, socket, device,
descriptor or backend object. A property is listed by name for all devices, as none of those listed
gives a name two meanings. Left out for what they open:

- `romfile`, `pcap` (USB devices), `filename`, `file`, `sdrfile`, `frudatafile`, `jsonfile`: files;
- `chardev`, `drive`, `netdev`, `memdev`, `iothread`, `rng`, `cryptodev`, `hostmem`, `tpmdev`, `fd`:
  backends and descriptors, those of the driver among them;
- `hidraw` (u2f-passthru), `db` and `backend` (ccid-card-emulated), `dir` (u2f-emulated), `evdev`,
  `sysfsdev`, `host`, `rootdir`, `wayland-socket-path`: devices, directories and sockets;
- `rrfile` of -icount, `path` of -smbios, `file` and `gen_id` of -fw_cfg.
"""

OPTIONS = ("cpu", "device", "fw_cfg", "global", "icount", "rtc", "smbios")
"""Each takes exactly one value (qemu-options.hx, HAS_ARG), so no value can pass as an option of its
own, nor as a bare word, which QEMU would open as a disk."""

KEYS = {
    "fw_cfg": frozenset({"name", "string"}),
    "icount": frozenset({"align", "shift", "sleep"}),
    "rtc": frozenset({"base", "clock", "driftfix"}),
    "smbios": frozenset({
        "asset", "bank", "connector_type", "current-speed", "date", "designation",
        "external_reference", "family", "internal_reference", "kind", "loc_pfx", "location",
        "manufacturer", "max-speed", "part", "port_type", "processor-family", "processor-id",
        "product", "release", "serial", "sku", "slot_designation", "slot_id", "slot_length",
        "slot_type", "sock_pfx", "speed", "type", "uefi", "uuid", "value", "vendor", "version",
    }),
}  # fmt: skip
"""The keys of options that are no device."""

DEVICES = frozenset({
    # Buses
    "ioh3420", "i82801b11-bridge", "pci-bridge", "pcie-pci-bridge", "pcie-root-port", "pxb",
    "pxb-pcie", "x3130-upstream", "xio3130-downstream",
    # USB
    "ich9-usb-ehci1", "ich9-usb-ehci2", "ich9-usb-uhci1", "ich9-usb-uhci2", "ich9-usb-uhci3",
    "ich9-usb-uhci4", "ich9-usb-uhci5", "ich9-usb-uhci6", "nec-usb-xhci", "pci-ohci",
    "piix3-usb-uhci", "piix4-usb-uhci", "qemu-xhci", "usb-ehci", "usb-hub",
    # Keyboards and pointers
    "usb-kbd", "usb-mouse", "usb-tablet", "usb-wacom-tablet", "virtio-keyboard-pci",
    "virtio-mouse-pci", "virtio-multitouch-pci", "virtio-tablet-pci",
    # Screens
    "VGA", "bochs-display", "cirrus-vga", "ramfb", "secondary-vga", "virtio-gpu-pci", "virtio-vga",
    # Sound: without an -audiodev, which no job can have, it goes nowhere (`startqemu`)
    "AC97", "ES1370", "hda-duplex", "hda-micro", "hda-output", "ich9-intel-hda", "intel-hda",
    "sb16", "usb-audio",
    # Others
    "amd-iommu", "edu", "i6300esb", "ib700", "intel-iommu", "isa-applesmc", "isa-debug-exit",
    "pci-testdev", "pvpanic", "pvpanic-pci", "virtio-balloon-pci", "virtio-iommu-pci",
    "virtio-rng-pci", "vmcoreinfo",
})  # fmt: skip

GLOBAL_DRIVERS = DEVICES | {"kvm-pit", "mc146818rtc", "virtio-net-pci", "virtio-scsi-pci"}
"""Whose defaults -global can change: those, and some that every VM has. Not the chipset (`mch`,
`ICH9-LPC`) and the flash (`cfi.pflash01`), which guard Secure Boot."""

PROPERTIES = frozenset({
    # Any device, any PCI device
    "acpi-index", "addr", "aer", "aer_log_max", "ats", "bootindex", "bus", "id", "multifunction",
    "rombar",
    # Buses
    "bus-reserve", "bus_nr", "bypass_iommu", "chassis", "chassis_nr", "disable-acs", "hotplug",
    "io-reserve", "mem-reserve", "msi", "msix", "numa_node", "pref32-reserve", "pref64-reserve",
    "shpc", "slot",
    # virtio
    "any_layout", "disable-legacy", "disable-modern", "event_idx", "indirect_desc", "ioeventfd",
    "iommu_platform", "notify_on_empty", "packed", "page-per-vq", "queue_reset", "vectors",
    # USB
    "attached", "bandwidth", "firstport", "intrs", "maxframes", "msos-desc", "p2", "p3", "port",
    "ports", "serial", "slots", "streams", "superspeed-ports-first", "usb_version", "wheel-axis",
    # Screens and pointers
    "big-endian-framebuffer", "blitter", "display", "edid", "head", "max_outputs", "mmio",
    "refresh_rate", "vgamem", "vgamem_mb", "xmax", "xres", "ymax", "yres",
    # Sound
    "audiodev", "buffer", "cad", "debug", "dma", "dma16", "iobase", "irq", "mixer", "multi",
    "use-timer", "version",
    # IOMMUs, watchdogs, counters, memory
    "aw-bits", "boot-bypass", "caching-mode", "deflate-on-oom", "device-iotlb", "dma-drain",
    "dma-translation", "eim", "events", "free-page-hint", "free-page-reporting", "intremap",
    "iosize", "ioport", "lost_tick_policy", "max-bytes", "osk", "page-poison", "period", "pt",
    "snoop-control",
    # virtio-net and virtio-scsi, for -global
    "cmd_per_lun", "csum", "gso", "guest_csum", "guest_tso4", "guest_tso6", "guest_ufo", "hash",
    "host_tso4", "host_tso6", "host_ufo", "max_sectors", "mrg_rxbuf", "num_queues", "rss",
    "rx_queue_size", "tx", "tx_queue_size", "virtqueue_size",
})  # fmt: skip
