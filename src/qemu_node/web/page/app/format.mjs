// Numbers and times for people: pure.

const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytes(count) {
  if (count == null) return '–';
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < SIZES.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit > 0 && value < 10 && !Number.isInteger(value) ? 1 : 0;
  return `${value.toFixed(digits)} ${SIZES[unit]}`;
}

/** Return a duration by its two largest units: `3 d 4 h`. */
export function duration(seconds) {
  if (seconds == null) return '–';
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return two(Math.floor(whole / 3600), 'h', Math.floor((whole % 3600) / 60), 'min');
  return two(Math.floor(whole / 86400), 'd', Math.floor((whole % 86400) / 3600), 'h');
}

function two(large, largeUnit, small, smallUnit) {
  return small ? `${large} ${largeUnit} ${small} ${smallUnit}` : `${large} ${largeUnit}`;
}

export function percent(value) {
  if (value == null) return '–';
  return value < 10 ? `${value.toFixed(1)} %` : `${Math.round(value)} %`;
}

/** Return a time of RFC 3339 as this browser's user writes it. */
export function moment(text) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : at.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
}

/** Return how full a VM's memory is: `{used, plugged, max}` as shares of max, 0 to 1. */
export function memoryShares(memory) {
  const max = memory.max_bytes || memory.plugged_bytes || 1;
  const share = (value) => Math.min(Math.max((value ?? 0) / max, 0), 1);
  return { used: share(memory.used_bytes), plugged: share(memory.plugged_bytes) };
}
