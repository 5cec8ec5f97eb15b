// What VMs have used lately, as far as this page has seen it: bounded, and gone with the page.
// Longer times are Prometheus's (docs/metrics.md).

const KEPT_S = 900;
const SAMPLES_MAX = 240;

/** vm_id → samples `{at, cpu, used}`, the oldest first; `at` in seconds. */
const kept = new Map();

/** Return `samples` with one more; those that are too old or too many are gone. Pure. */
export function withSample(samples, sample) {
  const from = samples.findIndex(({ at }) => sample.at - at <= KEPT_S);
  return [...(from < 0 ? [] : samples.slice(from)), sample].slice(-SAMPLES_MAX);
}

/** Note how a VM is now. */
export function note(vm, at = performance.now() / 1000) {
  if (vm.end || vm.cpu_pct == null) {
    kept.delete(vm.vm_id);
    return;
  }
  const samples = kept.get(vm.vm_id) ?? [];
  const last = samples.at(-1);
  const sample = { at, cpu: vm.cpu_pct, used: vm.memory?.used_bytes ?? null };
  if (last && last.cpu === sample.cpu && last.used === sample.used) return;
  kept.set(vm.vm_id, withSample(samples, sample));
}

export function forget(vmId) {
  kept.delete(vmId);
}

/**
 * Return the path of a line that shows `member` over time in a box of 100 by 100: pure.
 *
 * A value holds until the next one, so it is a line of steps. `most` is the value at the top.
 */
export function pathOf(samples, member, most, now) {
  const shown = samples.filter((sample) => sample[member] != null);
  if (!shown.length) return '';
  const begin = Math.min(shown[0].at, now - 60);
  const x = (at) => ((100 * (at - begin)) / (now - begin)).toFixed(2);
  const y = (value) => (100 - 100 * Math.min(Math.max(value / most, 0), 1)).toFixed(2);
  const [first, ...rest] = shown;
  return `M${x(first.at)} ${y(first[member])}${rest.map((sample) => `H${x(sample.at)}V${y(sample[member])}`).join('')}H100`;
}

export function samplesOf(vmId) {
  return kept.get(vmId) ?? [];
}
