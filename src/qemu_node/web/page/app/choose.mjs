// Which VMs are shown, and in which order: pure.
import { ORDER, tone, word } from './states.mjs';

export const SORTS = {
  job: 'Job',
  state: 'State',
  cpu: 'CPU',
  memory: 'Memory',
  uptime: 'Uptime',
  address: 'Address',
};

const collator = new Intl.Collator(undefined, { numeric: true });

const KEYS = {
  state: (vm) => ORDER.indexOf(tone(vm)),
  cpu: (vm) => -(vm.cpu_pct ?? -1),
  memory: (vm) => -(vm.memory?.used_bytes ?? vm.memory?.plugged_bytes ?? 0),
  uptime: (vm) => -(vm.end ? -1 : vm.uptime_s ?? -1),
};

/** Return what a VM is called: its job, and its index if its group has several. */
export function title(vm) {
  return vm.index == null ? vm.job : `${vm.job}[${vm.index}]`;
}

/** Return what a search looks through. */
export function searchText(vm) {
  return [
    vm.vm_id, vm.alloc_id, vm.namespace, vm.job, vm.group, vm.task, title(vm), vm.node, word(vm), vm.os,
    vm.image, vm.host_name, ...(vm.addresses ?? []), ...(vm.vlans ?? []).map((vlan) => `vlan${vlan}`),
  ].join('\n').toLowerCase();
}

function byName(a, b) {
  return collator.compare(a.namespace, b.namespace) || collator.compare(a.job, b.job)
    || collator.compare(a.group, b.group) || (a.index ?? 0) - (b.index ?? 0)
    || collator.compare(a.task, b.task) || collator.compare(a.vm_id, b.vm_id);
}

function order(sort) {
  if (sort === 'address') {
    const first = (vm) => vm.addresses?.[0] ?? '\uffff';
    return (a, b) => collator.compare(first(a), first(b)) || byName(a, b);
  }
  const key = KEYS[sort];
  return key ? (a, b) => key(a) - key(b) || byName(a, b) : byName;
}

/** Return the VMs that have every word of `search`, and the job and state that are asked for. */
export function choose(vms, { search = '', job = '', state = '', sort = 'job' }) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [...vms].filter((vm) => {
    if (job && `${vm.namespace}/${vm.job}` !== job) return false;
    if (state && word(vm) !== state) return false;
    if (!words.length) return true;
    const text = searchText(vm);
    return words.every((part) => text.includes(part));
  });
  return found.sort(order(sort));
}

/** Return how many VMs are in each state and each job: two lists of [name, count]. */
export function counts(vms) {
  const states = new Map();
  const jobs = new Map();
  const tones = new Map();
  for (const vm of vms) {
    const name = word(vm);
    states.set(name, (states.get(name) ?? 0) + 1);
    tones.set(name, tone(vm));
    const job = `${vm.namespace}/${vm.job}`;
    jobs.set(job, (jobs.get(job) ?? 0) + 1);
  }
  const byTone = (a, b) => ORDER.indexOf(tones.get(a[0])) - ORDER.indexOf(tones.get(b[0])) || b[1] - a[1];
  return {
    states: [...states].sort(byTone).map(([name, count]) => ({ name, count, tone: tones.get(name) })),
    jobs: [...jobs].sort((a, b) => collator.compare(a[0], b[0])),
  };
}
