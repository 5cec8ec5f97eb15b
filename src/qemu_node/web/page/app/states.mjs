// A VM's states: how they are called, coloured and grouped. Pure.

const GROUPS = {
  running: 'good',
  unmanaged: 'warn',
  starting: 'busy',
  restoring: 'busy',
  resetting: 'busy',
  'shutting-down': 'busy',
  stopping: 'busy',
  paused: 'warn',
  suspended: 'warn',
  'disk-full': 'bad',
  panicked: 'bad',
  'internal-error': 'bad',
  'io-error': 'bad',
  crashed: 'bad',
  ended: 'off',
};

/** Return the colour of a VM: good, busy, warn, bad or off. */
export function tone(vm) {
  if (vm.end) return vm.end.is_failure ? 'bad' : 'off';
  return GROUPS[vm.state] ?? 'warn';
}

/** Return the word for a VM's state. */
export function word(vm) {
  if (vm.end) return vm.end.is_failure ? 'failed' : 'ended';
  return (vm.state ?? '').replaceAll('-', ' ');
}

export const ORDER = ['bad', 'warn', 'busy', 'good', 'off'];
