// The VMs of this node, as the stream of events tells them. Owns applying it; does not own the stream.
import { forget, note } from './history.mjs';
import { signal } from './html.mjs';

/** vm_id → VM; another Map after each change, and another object for each VM that has changed. */
export const vms = signal(new Map());
/** Whether a snapshot has arrived. */
export const isKnown = signal(false);
/** Namespace → rights there; '' → on the node. */
export const rights = signal({});
/** Counts up every half minute: what shows ages is drawn anew. */
export const beat = signal(0);

setInterval(() => { beat.value += 1; }, 30_000);

function marked(vm) {
  // Ages are told once; from then on they are counted here.
  return { ...vm, told_at: performance.now() };
}

export function applySnapshot(snapshot) {
  vms.value = new Map(snapshot.vms.map((vm) => [vm.vm_id, marked(vm)]));
  for (const vm of snapshot.vms) note(vm);
  isKnown.value = true;
}

export function applyDelta({ changed = {}, gone = [] }) {
  const next = new Map(vms.peek());
  for (const [vmId, members] of Object.entries(changed)) {
    const now = { ...next.get(vmId), ...members, vm_id: vmId };
    for (const [name, value] of Object.entries(members)) if (value === null) delete now[name];
    const hasAges = 'uptime_s' in members || !next.has(vmId);
    next.set(vmId, hasAges ? marked(now) : now);
    if ('cpu_pct' in members || 'memory' in members || 'end' in members) note(now);
  }
  for (const vmId of gone) {
    next.delete(vmId);
    forget(vmId);
  }
  vms.value = next;
}

export function forgetAll() {
  vms.value = new Map();
  isKnown.value = false;
}

/** Return how long a VM runs by now, in seconds; null if it does not. */
export function uptime(vm) {
  return vm.uptime_s == null || vm.end ? null : vm.uptime_s + (performance.now() - vm.told_at) / 1000;
}
