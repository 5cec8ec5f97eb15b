// A VM's WebSocket: a ticket, the first message, `ok`; and coming back after a loss. Owns when another
// attempt is made and why none is. Does not own what the socket carries.
import { signal } from './html.mjs';
import { API, get, post, vmPath } from './api.mjs';

const PAUSES_MS = [300, 1000, 2000, 4000, 8000, 15_000];
const OPEN_MS = 10_000;
// A connection that is lost sooner has not worked: the screen of a QEMU may be lost behind an `ok`.
const STEADY_MS = 10_000;

// Close codes of the console.
const SESSION_OVER = 4401;
const RIGHT_LOST = 4403;
const IDLE = 4408;
const VM_ENDED = 4410;
const NO_RFB = 4422;

/** Return what a close code means: `{next: 'again' | 'wait' | 'stop', words}`. Pure. */
export function meaning(code, reason) {
  switch (code) {
    case SESSION_OVER: return { next: 'stop', words: 'Your session has ended.' };
    case RIGHT_LOST: return { next: 'stop', words: 'You may not use this VM any more.' };
    case IDLE: return { next: 'stop', words: 'Nothing happened for long, so the connection was closed.' };
    case NO_RFB: return { next: 'stop', words: reason || 'The console did not understand this browser.' };
    case VM_ENDED: return { next: 'wait', words: reason || 'The VM has ended.' };
    default: return { next: 'again', words: reason };
  }
}

/**
 * Return how long to wait before the next attempt, and its number. Pure.
 *
 * `attempt` is how many were made since one worked; `openMs` how long the last one was open.
 */
export function nextAttempt(attempt, openMs) {
  const made = openMs >= STEADY_MS ? 0 : attempt;
  return { pauseMs: PAUSES_MS[Math.min(made, PAUSES_MS.length - 1)], attempt: made + 1 };
}

/**
 * A connection that comes back by itself.
 *
 * `status` is a signal: `{phase: 'connecting' | 'open' | 'again' | 'ended' | 'stopped', words}`.
 * `attach(socket)` is called in the very event of the answer `ok`: what comes next is already for it.
 * It returns what is called when the socket has closed.
 */
export class Connection {
  constructor({ vmId, kind, mode, attach, prepare = () => Promise.resolve() }) {
    Object.assign(this, { vmId, kind, mode, attach, prepare });
    this.status = signal({ phase: 'connecting', words: '' });
    this.attempt = 0;
    this.openedAt = null;
    this.socket = null;
    this.isOver = false;
  }

  async open() {
    clearTimeout(this.timer);
    if (this.isOver || this.socket) return;
    if (this.status.peek().phase !== 'again') this.status.value = { phase: 'connecting', words: '' };
    this.isOpening = true;
    try {
      await this.prepare();
      const { ticket } = await post(vmPath(this.vmId, '/ticket'), { kind: this.kind, mode: this.mode });
      if (!this.isOver) this.connect(ticket);
    } catch (error) {
      if ([401, 403, 404].includes(error.status)) this.stop('stopped', error.message);
      else this.again(error.message);
    } finally {
      this.isOpening = false;
    }
  }

  connect(ticket) {
    const url = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${API}${vmPath(this.vmId, `/${this.kind}`)}`;
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    let onClosed = null;
    const limit = setTimeout(() => socket.close(), OPEN_MS);
    socket.onopen = () => socket.send(JSON.stringify({ ticket }));
    socket.onmessage = (event) => {
      if (event.data !== 'ok') return;
      clearTimeout(limit);
      socket.onmessage = null;
      this.openedAt = performance.now();
      onClosed = this.attach(socket);
    };
    // noVNC sets the `on…` handlers itself; this one stays.
    socket.addEventListener('close', (event) => {
      clearTimeout(limit);
      if (this.socket === socket) this.socket = null;
      onClosed?.(event);
      if (!this.isOver) this.closed(event.code, event.reason);
    });
  }

  /** The other side is there and speaks. */
  opened() {
    this.status.value = { phase: 'open', words: '' };
  }

  closed(code, reason) {
    const { next, words } = meaning(code, reason);
    if (next === 'stop') {
      this.stop('stopped', words);
      if (code === SESSION_OVER) get('/session').catch(() => {});
    } else if (next === 'wait') {
      this.status.value = { phase: 'ended', words };
    } else {
      this.again(words);
    }
  }

  again(words) {
    if (this.isOver) return;
    this.status.value = { phase: 'again', words };
    clearTimeout(this.timer);
    const openMs = this.openedAt === null ? 0 : performance.now() - this.openedAt;
    const { pauseMs, attempt } = nextAttempt(this.attempt, openMs);
    Object.assign(this, { attempt, openedAt: null });
    this.timer = setTimeout(() => this.open(), pauseMs);
  }

  stop(phase, words) {
    clearTimeout(this.timer);
    this.status.value = { phase, words };
  }

  /** Try now: somebody wants it, or the VM runs again. */
  retry() {
    this.attempt = 0;
    if (this.socket || this.isOpening) return;
    this.status.value = { phase: 'connecting', words: '' };
    this.open();
  }

  close() {
    this.isOver = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }
}
