"""How images of the cache look: rows, fields, JSON. Pure."""

from qemu_node.cli.terminal import Cell, Column, Row, short_size, short_time
from qemu_node.images.store.keptimage import KeptImage, RemovedImage, file_name
from qemu_node.units import format_size

COLUMNS = (
    Column("Image"),
    Column("Digest"),
    Column("Format", droppable=3),
    Column("Size", is_number=True),
    Column("Disk", is_number=True, droppable=2),
    Column("VMs", is_number=True),
    Column("Used", is_number=True),
    Column("State"),
    Column("Origin", droppable=1),
)
_DIGEST_SHOWN_CHARS = 12


def title(image: KeptImage) -> str:
    """Return what an image is called: its file's name at its first source, else its digest."""
    origins = (*image.origins, *image.earlier_of)
    return file_name(origins[0]) if origins else short_digest(image)


def short_digest(image: KeptImage) -> str:
    """Return as much of the digest as tells images apart."""
    return image.blob.sha256[:_DIGEST_SHOWN_CHARS]


def state(image: KeptImage) -> str:
    """Return in words why an image stays, or that it is outdated.

    `earlier`: its source gives another one by now, but jobs name this one by checksum.
    """
    words = {
        "pinned": image.is_pinned,
        "prefetched": image.is_prefetched,
        "earlier": not image.sources and not image.is_outdated,
        "outdated": image.is_outdated,
    }
    return ", ".join(word for word, is_so in words.items() if is_so)


def rows(images: list[KeptImage], now_s: float) -> list[Row]:
    """Return the table's rows at the Unix time `now_s`; further sources have a line of their own.

    The size that a guest sees is left out for an image that no source has any more.
    """
    lines: list[Row] = []
    for image in images:
        disk = short_size(image.sources[0].record.virtual_size_bytes) if image.sources else ""
        lines.append(
            [
                Cell(title(image)),
                Cell(short_digest(image)),
                Cell(image.blob.format.value),
                Cell(short_size(image.blob.size_bytes)),
                Cell(disk),
                Cell(str(len(image.users))),
                Cell(last_use(image, now_s)),
                Cell(state(image), "yellow" if image.is_outdated else ""),
                Cell(next(iter((*image.origins, *image.earlier_of)), "")),
            ]
        )
        lines += [[Cell("")] * (len(COLUMNS) - 1) + [Cell(origin)] for origin in image.origins[1:]]
    return lines


def last_use(image: KeptImage, now_s: float) -> str:
    """Return how long ago an image was used last."""
    return "now" if image.is_in_use else short_time(max(now_s - image.blob.last_used_at, 0.0))


def fields(image: KeptImage, now_s: float) -> list[tuple[str, str]]:
    """Return what `image show` prints at the Unix time `now_s`."""
    used = last_use(image, now_s)
    lines = [
        ("image", title(image)),
        ("digest", image.digest),
        ("state", state(image) or "cached"),
        ("format", image.blob.format.value),
        ("size", f"{format_size(image.blob.size_bytes)}, {format_size(image.blob.allocated_bytes)} "
                 "on disk"),
        ("used", used if image.is_in_use else f"{used} ago"),
        ("VMs", ", ".join(image.users) or "none"),
        ("file", str(image.blob.path)),
    ]  # fmt: skip
    lines += [("earlier of", origin) for origin in image.earlier_of]
    for source in image.sources:
        record = source.record
        lines += [
            ("origin", record.url),
            ("disk", f"{format_size(record.virtual_size_bytes)} for a guest"),
            ("fetched", f"{short_time(max(now_s - record.fetched_at, 0.0))} ago"),
            ("checked", f"{short_time(max(now_s - record.checked_at, 0.0))} ago"),
        ]
    return lines


def to_json(image: KeptImage) -> dict[str, object]:
    """Return what --json prints of an image; times are Unix times."""
    return {
        "digest": image.digest,
        "format": image.blob.format,
        "size_bytes": image.blob.size_bytes,
        "allocated_bytes": image.blob.allocated_bytes,
        "path": str(image.blob.path),
        "last_used_at": image.blob.last_used_at,
        "in_use": image.is_in_use,
        "vms": image.users,
        "pinned": image.is_pinned,
        "prefetched": image.is_prefetched,
        "outdated": image.is_outdated,
        "earlier_of": image.earlier_of,
        "sources": [
            {
                "origin": source.record.url,
                "virtual_size_bytes": source.record.virtual_size_bytes,
                "fetched_at": source.record.fetched_at,
                "checked_at": source.record.checked_at,
                "pinned": source.record.pinned,
            }
            for source in image.sources
        ],
    }


def removed_line(removed: RemovedImage) -> str:
    """Return what `image gc` says of one image."""
    image = removed.image
    size = format_size(image.blob.allocated_bytes)
    return f"{title(image)}  {short_digest(image)}  {size}  {removed.reason}"


def removed_json(removed: RemovedImage) -> dict[str, object]:
    """Return what --json prints of an image that `image gc` removes."""
    return to_json(removed.image) | {"reason": removed.reason.value}
