"""The routes of keys and pastes."""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from qemu_node.text import nearest, printable
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.frame.route import VM_PATH, Call, Route, StreamGuard
from qemu_node.web.http.problems import Problem, bad_request
from qemu_node.web.viewer.contract import VMs
from qemu_node.web.viewer.keys import combinations, layouts
from qemu_node.web.viewer.keys.paste import PasteBody, Pastes, PasteView
from qemu_node.web.viewer.keys.strokes import plan_strokes
from qemu_node.web.viewer.keys.typist import press


class KeysBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys to press one after the other, hold, and release: `["ctrl", "alt", "delete"]`."""

    keys: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=combinations.KEYS_MAX)]


class LayoutView(msgspec.Struct, frozen=True, kw_only=True):
    """A keyboard layout."""

    name: str
    title: str


class KeyboardView(msgspec.Struct, frozen=True, kw_only=True):
    """What can be typed with."""

    layouts: tuple[LayoutView, ...]
    keys: tuple[str, ...]
    """Names for combinations."""


class KeysRoutes:
    """What is served of the VMs' keyboards."""

    def __init__(self, fleet: VMs, pastes: Pastes, guard: StreamGuard) -> None:
        self._fleet = fleet
        self._pastes = pastes
        self._guard = guard

    def routes(self) -> Iterable[Route]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path="/api/v1/keyboard",
                right=Right.SEE,
                handler=self._keyboard,
                summary="The keyboard layouts and the names of keys.",
                answer=KeyboardView,
            ),
            Route(
                method="POST",
                path=f"{VM_PATH}/keys",
                right=Right.CONTROL,
                handler=self._press,
                summary="Press a combination of keys.",
                body=KeysBody,
            ),
            Route(
                method="POST",
                path=f"{VM_PATH}/paste",
                right=Right.CONTROL,
                handler=self._paste,
                summary="Type a text on the guest's keyboard.",
                body=PasteBody,
                answer=PasteView,
            ),
            Route(
                method="GET",
                path=f"{VM_PATH}/paste/{{paste_id}}",
                right=Right.CONTROL,
                handler=self._progress,
                summary="How far a paste is.",
                answer=PasteView,
            ),
            Route(
                method="DELETE",
                path=f"{VM_PATH}/paste/{{paste_id}}",
                right=Right.CONTROL,
                handler=self._abort,
                summary="Abort a paste.",
                answer=PasteView,
            ),
        )

    async def _keyboard(self, _call: Call) -> KeyboardView:
        loaded = [layouts.load(name) for name in layouts.names()]
        return KeyboardView(
            layouts=tuple(LayoutView(name=each.name, title=each.title) for each in loaded),
            keys=tuple(combinations.names()),
        )

    async def _press(self, call: Call) -> None:
        body: KeysBody = call.body
        qcodes = combinations.plan_keys(body.keys)
        vm_id = call.the_vm.vm_id
        if self._pastes.is_typing(vm_id):
            raise Problem(
                409, "paste-runs", "a text is being typed into this VM", hint="abort it first"
            )
        await press(self._fleet, vm_id, qcodes)

    async def _paste(self, call: Call) -> PasteView:
        body: PasteBody = call.body
        vm, grant = call.the_vm, call.the_grant
        try:
            layout = layouts.load(body.layout)
        except KeyError as exc:
            known = ", ".join(layouts.names())
            near = nearest(body.layout[:20], layouts.names())
            raise bad_request(
                f"no keyboard layout {printable(body.layout[:20])!r}",
                hint=f"did you mean {near}?" if near else f"there are {known}",
            ) from exc
        characters = plan_strokes(layout, body.text)
        return await self._pastes.start(
            vm.vm_id,
            characters,
            per_second=body.per_second,
            may_go_on=lambda: not grant.session.is_over and grant.allows(Right.CONTROL, vm),
            session=self._guard.stream(grant),
        )

    async def _progress(self, call: Call) -> PasteView:
        return self._pastes.get(call.the_vm.vm_id, call.request.match_info["paste_id"])

    async def _abort(self, call: Call) -> PasteView:
        return await self._pastes.abort(call.the_vm.vm_id, call.request.match_info["paste_id"])
