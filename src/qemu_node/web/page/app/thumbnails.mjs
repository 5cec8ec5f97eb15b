// Small pictures of the VMs that are in view. Owns when they are fetched: only for pictures that can be
// seen, a few at a time, every few seconds, with the version that is here already, so that a screen that
// has not changed costs one short answer and no drawing. The console says how long a picture stays fresh,
// and what it tells of the VM may say that it is not any more.
import { effect } from './html.mjs';
import { send, vmPath } from './api.mjs';
import { session } from './session.mjs';

const EVERY_MS = 5000;
const AT_A_TIME = 3;
const KEPT_MAX = 100;
const RETRY_MS = 15_000;
/** Of a core: a guest that uses so much more than before may draw. */
const WOKE_PCT = 3;

/** vm_id → {etag, bitmap}; the oldest is first. */
const kept = new Map();
/** Element → what `watch` was told. */
const watched = new Map();
const waiting = new Set();
let busy = 0;
/** Counts up when somebody leaves: what was asked for in his name is shown to nobody else. */
let era = 0;

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const item = watched.get(target);
    if (!item) continue;
    item.isSeen = isIntersecting;
    if (isIntersecting) wish(item);
    else waiting.delete(item);
  }
}, { rootMargin: '100px' });

/** Keep `canvas` showing a VM's screen while it is in view; return what ends that. */
export function watch(canvas, vmId, onPicture) {
  const item = { canvas, vmId, onPicture, isSeen: false, askedAt: 0, dueAt: 0, isFinal: false, vm: null, shown: null };
  watched.set(canvas, item);
  const have = kept.get(vmId);
  if (have) draw(item, have.bitmap);
  observer.observe(canvas);
  return {
    /** The VM has ended: its picture is fetched once more and then stays. */
    setFinal(isFinal) {
      if (item.isFinal === isFinal) return;
      item.isFinal = isFinal;
      item.dueAt = 0;
      if (item.isSeen) wish(item);
    },
    /** What is known of the VM has changed: its screen, too? */
    tell(vm) {
      item.vm = vm;
      if (mayDiffer(item)) item.dueAt = Math.min(item.dueAt, item.askedAt + EVERY_MS);
    },
    end() {
      observer.unobserve(canvas);
      watched.delete(canvas);
      waiting.delete(item);
    },
  };
}

/** Tell whether a VM's screen is probably another one than when its picture was asked for. */
export function mayDiffer({ vm, shown, vmId }) {
  if (!vm || !shown) return false;
  const etag = kept.get(vmId)?.etag ?? '';
  return (vm.cpu_pct ?? 0) - (shown.cpu_pct ?? 0) > WOKE_PCT || vm.state !== shown.state
    || vm.viewers > 0 || Boolean(vm.thumbnail && etag && `"${vm.thumbnail}"` !== etag);
}

function wish(item) {
  if (document.hidden || performance.now() < item.dueAt) return;
  waiting.add(item);
  work();
}

function work() {
  while (busy < AT_A_TIME && waiting.size) {
    const [item] = waiting;
    waiting.delete(item);
    busy += 1;
    fetchOne(item).finally(() => {
      busy -= 1;
      work();
    });
  }
}

async function fetchOne(item) {
  const begun = era;
  const have = kept.get(item.vmId);
  const headers = have ? { 'If-None-Match': have.etag } : {};
  item.askedAt = performance.now();
  item.dueAt = item.askedAt + EVERY_MS;
  item.shown = item.vm;
  try {
    const response = await send('GET', vmPath(item.vmId, '/thumbnail'), undefined, { headers });
    if (item.isFinal) item.dueAt = Infinity;
    else if (!mayDiffer(item)) item.dueAt = Math.max(item.dueAt, item.askedAt + 1000 * maxAge(response));
    if (response.status === 304) return;
    const bitmap = await createImageBitmap(await response.blob());
    if (begun !== era) {
      bitmap.close();
      return;
    }
    keep(item.vmId, { etag: response.headers.get('ETag') ?? '', bitmap });
    draw(item, bitmap);
  } catch (error) {
    // No picture yet, or none that is allowed: what is shown stays.
    item.dueAt = performance.now() + (error.status === 403 ? Infinity : RETRY_MS);
  }
}

function maxAge(response) {
  return Number(/max-age=(\d+)/.exec(response.headers.get('Cache-Control') ?? '')?.[1] ?? 0);
}

function keep(vmId, picture) {
  drop(vmId);
  kept.set(vmId, picture);
  if (kept.size > KEPT_MAX) drop(kept.keys().next().value);
}

function drop(vmId) {
  // A bitmap's memory is not the script's: the browser does not know how much a collection would free.
  kept.get(vmId)?.bitmap.close();
  kept.delete(vmId);
}

function draw(item, bitmap) {
  const { canvas } = item;
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext('2d', { alpha: false }).drawImage(bitmap, 0, 0);
  item.onPicture();
}

function lookAgain() {
  for (const item of watched.values()) if (item.isSeen) wish(item);
}

effect(() => {
  if (session.value) return;
  era += 1;
  for (const vmId of [...kept.keys()]) drop(vmId);
});

setInterval(lookAgain, 1000);
document.addEventListener('visibilitychange', lookAgain);
