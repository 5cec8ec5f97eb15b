// Small parts that several views use.
import { html } from './html.mjs';
import { percent } from './format.mjs';
import { tone, word } from './states.mjs';

export function State({ vm }) {
  return html`<span class=${`state ${tone(vm)}`}><i aria-hidden="true"></i>${word(vm)}</span>`;
}

/** A bar: `value` and `outer` are shares, 0 to 1. What it shows is told by the text beside it. */
export function Bar({ value, outer = 0, kind = '' }) {
  const style = { '--value': `${(value * 100).toFixed(1)}%`, '--outer': `${(outer * 100).toFixed(1)}%` };
  return html`<span class=${`bar ${kind}`} style=${style} aria-hidden="true"><b></b><i></i></span>`;
}

export function cpuShare(vm) {
  return Math.min((vm.cpu_pct ?? 0) / (100 * (vm.vcpus || 1)), 1);
}

export function cpuText(vm) {
  return vm.cpu_pct == null ? '–' : percent(vm.cpu_pct);
}

/** An error, with what to do about it. */
export function Notice({ error, children }) {
  if (!error) return null;
  return html`<div class="notice" role="alert">
    <p><strong>${error.message}</strong>${error.hint ? html` <span>${error.hint}</span>` : null}</p>${children}
  </div>`;
}

export function systemName(vm) {
  return { linux: 'Linux', windows: 'Windows' }[vm.os] ?? vm.os ?? '';
}
